"""Which of the drawn images are ranked: two of each label."""

LABELS = ("plain disc", "checkered square", "row-striped triangle")
COUNT = 2 * len(LABELS)
