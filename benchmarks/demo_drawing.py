"""Images side by side and the chart of ranked prompts, drawn with Pillow alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

INK, FAINT, GRID, PAPER = "#1f2328", "#656d76", "#d8dee4", "#ffffff"
TRUE, OTHER = "#1a7f37", "#8c959f"
MARGIN, GAP = 20, 8
LEAST_SIDE = 160  # smaller images are enlarged by a whole factor
MAX_ROWS = 4  # more prompts are split into two blocks side by side
CAPTION_WIDTH = 120
PANEL_WIDTH, LABEL_WIDTH, BAR_WIDTH, BAR_PITCH = 316, 150, 100, 24

TEXT = ImageFont.load_default(15)
SMALL = ImageFont.load_default(13)


@dataclass(frozen=True)
class Bar:
    """A prompt whose mean error is `excess` (a share) above the best one's."""

    label: str
    excess: float
    is_true: bool


@dataclass(frozen=True, eq=False)
class Card:
    """An image (S, S, 3) with its name, and the bars of each setting, best first."""

    sample: Tensor
    name: str
    panels: Mapping[str, Sequence[Bar]]


def to_image(sample: Tensor) -> Image.Image:
    """(S, S, 3) in [0, 1] -> 8-bit RGB."""
    return Image.fromarray((sample * 255).round().byte().numpy())


def enlarged(sample: Tensor) -> Image.Image:
    """Enlarged by a whole factor to LEAST_SIDE or more, so that pixels stay square and sharp."""
    factor = -(-LEAST_SIDE // sample.shape[0])
    image = to_image(sample)
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def in_a_row(*samples: Image.Image) -> Image.Image:
    """Images of one size side by side."""
    width, height = samples[0].size
    row = Image.new("RGB", (len(samples) * (width + GAP) - GAP, height), PAPER)
    for number, sample in enumerate(samples):
        row.paste(sample, (number * (width + GAP), 0))
    return row


def wrapped(text: str, width: int) -> str:
    """Lines broken at spaces so that they fit into `width` pixels where words allow it."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and TEXT.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)


def shortened(text: str, width: int) -> str:
    """Cut to `width` pixels, with an ellipsis where something is missing."""
    if SMALL.getlength(text) <= width:
        return text
    while text and SMALL.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def sample_grid(samples: Mapping[str, Tensor], prompts: Sequence[str]) -> Image.Image:
    """A row per prompt, a column per setting, images (P, S, S, 3); long lists in two halves."""
    side = enlarged(next(iter(samples.values()))[0]).width
    heading = 44
    block_width = CAPTION_WIDTH + len(samples) * (side + GAP)
    blocks = 1 if len(prompts) <= MAX_ROWS else 2
    rows = -(-len(prompts) // blocks)
    width = 2 * MARGIN + blocks * block_width + (blocks - 1) * 2 * MARGIN - GAP
    sheet = Image.new("RGB", (width, 2 * MARGIN + heading + rows * (side + GAP) - GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    for block in range(blocks):
        left = MARGIN + block * (block_width + 2 * MARGIN)
        for column, setting in enumerate(samples):
            x = left + CAPTION_WIDTH + column * (side + GAP) + side / 2
            y = MARGIN + heading - GAP
            name = setting.replace(", ", "\n")
            draw.text((x, y), name, INK, TEXT, anchor="md", align="center")
    for number, prompt in enumerate(prompts):
        block, row = divmod(number, rows)
        left = MARGIN + block * (block_width + 2 * MARGIN)
        y = MARGIN + heading + row * (side + GAP)
        caption = wrapped(prompt, CAPTION_WIDTH - 12)
        place = (left + CAPTION_WIDTH - 12, y + side / 2)
        draw.text(place, caption, INK, TEXT, anchor="rm", align="right")
        for column, batch in enumerate(samples.values()):
            x = left + CAPTION_WIDTH + column * (side + GAP)
            sheet.paste(enlarged(batch[number]), (x, y))
    return sheet


def draw_panel(draw: ImageDraw.ImageDraw, x: int, y: int, bars: Sequence[Bar], longest: float):
    """Bars below each other from (x, y) on; an excess of `longest` fills the width."""
    start = x + LABEL_WIDTH
    for number, bar in enumerate(bars):
        middle = y + number * BAR_PITCH + BAR_PITCH / 2
        colour = TRUE if bar.is_true else INK
        label = shortened(bar.label, LABEL_WIDTH - 8)
        draw.text((start - 8, middle), label, colour, SMALL, anchor="rm")
        end = start + 2 + BAR_WIDTH * bar.excess / longest
        fill = TRUE if bar.is_true else OTHER
        draw.rectangle((start, middle - 6, end, middle + 6), fill)
        value = "best" if number == 0 else f"+{bar.excess:.2%}"
        draw.text((end + 6, middle), value, colour if number == 0 else FAINT, SMALL, anchor="lm")


def ranking_chart(cards: Sequence[Card], subtitle: str) -> Image.Image:
    """A card per image: the image, then the leading prompts under each setting on one scale."""
    settings = list(cards[0].panels)
    side = LEAST_SIDE
    heading, pitch = 76, side + 44
    sample_width = side + 2 * MARGIN
    width = 2 * MARGIN + sample_width + len(settings) * PANEL_WIDTH
    sheet = Image.new("RGB", (width, MARGIN + heading + len(cards) * pitch), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), subtitle, FAINT, TEXT)
    for column, setting in enumerate(settings):
        x = MARGIN + sample_width + column * PANEL_WIDTH + LABEL_WIDTH
        draw.text((x, MARGIN + heading - 26), setting, INK, TEXT, anchor="lm")
    for number, card in enumerate(cards):
        y = MARGIN + heading + number * pitch
        draw.line((MARGIN, y - 11, width - MARGIN, y - 11), GRID)
        image = enlarged(card.sample)
        sheet.paste(image.resize((side, side), Image.Resampling.LANCZOS), (MARGIN, y))
        name = shortened(card.name, side)
        draw.text((MARGIN + side / 2, y + side + 5), name, INK, SMALL, anchor="ma")
        longest = max(bar.excess for bars in card.panels.values() for bar in bars) or 1.0
        for column, bars in enumerate(card.panels.values()):
            top = y + (side - len(bars) * BAR_PITCH) // 2
            x = MARGIN + sample_width + column * PANEL_WIDTH
            draw_panel(draw, x, top, bars, longest)
    return sheet
