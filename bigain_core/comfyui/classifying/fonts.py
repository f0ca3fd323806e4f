"""Fonts for the names of prompts, which may be in any script."""

from __future__ import annotations

from functools import lru_cache

from PIL import ImageFont

SIZE = 15
# Pillow's own font has hardly more than ASCII. It looks for these where the system keeps its fonts.
SYSTEM_FONTS = (
    "DejaVuSans.ttf",
    "arial.ttf",
    "Arial.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJKsc-Regular.otf",
    "NotoSansCJKjp-Regular.otf",
    "SourceHanSansSC-Regular.otf",
    "msyh.ttc",
    "YuGothM.ttc",
    "msgothic.ttc",
    "malgun.ttf",
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
    "AppleSDGothicNeo.ttc",
    "Arial Unicode.ttf",
    "arialuni.ttf",
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf",
    "NotoSansArabic-Regular.ttf",
    "Nirmala.ttc",
)
UNASSIGNED = "\U0010ffff"  # no font has it, so what is drawn stands for any missing letter


def font_with(text: str, size: int = SIZE) -> ImageFont.FreeTypeFont | None:
    """The first font that has every letter of the text, None if there is none."""
    fonts = (_system_font(name, size) for name in ("", *SYSTEM_FONTS))
    return next((font for font in fonts if font and _has_all(font, text)), None)


@lru_cache
def _system_font(name: str, size: int) -> ImageFont.FreeTypeFont | None:
    """None if the system lacks it; Pillow's own has no name."""
    try:
        return ImageFont.truetype(name, size) if name else ImageFont.load_default(size)
    except OSError:
        return None


def _has_all(font: ImageFont.FreeTypeFont, text: str) -> bool:
    missing = _drawn(font, UNASSIGNED)
    return all(letter.isspace() or _drawn(font, letter) != missing for letter in text)


@lru_cache(maxsize=4096)
def _drawn(font: ImageFont.FreeTypeFont, letter: str) -> tuple:
    mask = font.getmask(letter)
    return mask.size, bytes(mask)
