"""Translations are of the texts that the nodes have."""

from benchmarks.locales import changed, english, translated


def test_no_text_has_changed_since_it_was_translated():
    found = changed(english(), translated())
    assert not found, "translate, see CONTRIBUTING.md:\n" + "\n".join(found)
