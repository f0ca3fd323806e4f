"""The model families that can be compressed: adding one is a row here and a test."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter

from torch import nn

from .adapter import AttentionAdapter
from .block_attention import BlockAttention, ClassConditionalDiT, hunyuan_dit, pixart
from .joint_attention import (
    JointAttention,
    hunyuan_video,
    image_alone,
    image_first,
    image_last,
    text_image_references,
    wan,
)
from .unet import UNet


@dataclass(frozen=True)
class Family:
    """A class of networks, by its path below `package`, and the way to its self-attention.

    A path instead of the class itself lets a row name what only newer hosts have.
    """

    name: str
    network: str
    adapter: AttentionAdapter
    package: str = "comfy.ldm"

    def has(self, network: nn.Module) -> bool:
        """Whether the network is of this class or one that inherits from it."""
        paths = (f".{kind.__module__}.{kind.__qualname__}" for kind in type(network).__mro__)
        return any(path.endswith(f".{self.package}.{self.network}") for path in paths)


MULTIMODAL_BLOCKS = r"(double|single)_blocks\.\d+"
BOOGU_LAYERS = (
    r"noise_refiner\.\d+\.attn|single_stream_layers\.\d+\.attn"
    r"|double_stream_layers\.\d+\.(img_instruct_attn\.processor|img_self_attn)"
)


def packed_already(network: nn.Module) -> int:
    """The latent comes with patches as channels, whatever the network's own patch says."""
    return 1


FAMILIES = (
    Family(
        "Stable Diffusion UNet (1.x, 2.x, XL, SVD)",
        "modules.diffusionmodules.openaimodel.UNetModel",
        UNet(),
    ),
    Family("class-conditional DiT", "models.dit.DiT", ClassConditionalDiT(), "bigain_core"),
    Family("PixArt", "pixart.pixartms.PixArtMS", BlockAttention("attn", pixart)),
    Family("HunyuanDiT", "hydit.models.HunYuanDiT", BlockAttention("attn1", hunyuan_dit)),
    Family(
        "Stable Diffusion 3",
        "modules.diffusionmodules.mmdit.MMDiT",
        JointAttention(r"joint_blocks\.\d+", text_image_references, rotary=False),
    ),
    Family("Flux", "flux.model.Flux", JointAttention(MULTIMODAL_BLOCKS, text_image_references)),
    Family(
        "Chroma", "chroma.model.Chroma", JointAttention(MULTIMODAL_BLOCKS, text_image_references)
    ),
    Family(
        "AuraFlow",
        "aura.mmdit.MMDiT",
        JointAttention(r"(double|single)_layers\.\d+\.attn", image_last, rotary=False),
    ),
    Family(
        "Lumina 2, Z-Image",
        "lumina.model.NextDiT",
        JointAttention(r"(noise_refiner|layers)\.\d+\.attention", image_last),
    ),
    Family(
        "Qwen-Image",
        "qwen_image.model.QwenImageTransformer2DModel",
        JointAttention(r"transformer_blocks\.\d+\.attn", text_image_references),
    ),
    Family("Wan", "wan.model.WanModel", JointAttention(r"blocks\.\d+\.self_attn", wan)),
    Family(
        "Cosmos Predict2",
        "cosmos.predict2.MiniTrainDIT",
        JointAttention(
            r"blocks\.\d+\.self_attn",
            image_alone,
            patch=attrgetter("patch_temporal", "patch_spatial", "patch_spatial"),
        ),
    ),
    Family(
        "HiDream",
        "hidream.model.HiDreamImageTransformer2DModel",
        JointAttention(r"(double|single)_stream_blocks\.\d+\.block\.attn1", image_first),
    ),
    Family(
        "LTX-Video",
        "lightricks.model.LTXVModel",
        JointAttention(
            r"transformer_blocks\.\d+\.attn1",
            image_alone,
            patch=attrgetter("patchifier.patch_size"),
        ),
    ),
    Family(
        "HunyuanVideo, HunyuanImage",
        "hunyuan_video.model.HunyuanVideo",
        JointAttention(MULTIMODAL_BLOCKS, hunyuan_video),
    ),
    Family(
        "OmniGen2",
        "omnigen.omnigen2.OmniGen2Transformer2DModel",
        JointAttention(r"(noise_refiner|layers)\.\d+\.attn", image_last),
    ),
    Family(
        "Kandinsky 5",
        "kandinsky5.model.Kandinsky5",
        JointAttention(r"visual_transformer_blocks\.\d+\.self_attention", image_alone),
    ),
    Family(
        "Krea 2",
        "krea2.model.SingleStreamDiT",
        JointAttention(r"blocks\.\d+\.attn", text_image_references, patch=attrgetter("patch")),
    ),
    Family(
        "Lens",
        "lens.model.LensTransformer2DModel",
        JointAttention(r"transformer_blocks\.\d+\.attn", image_first, patch=packed_already),
    ),
    Family(
        "JoyImage",
        "joyimage.model.JoyImageTransformer3DModel",
        JointAttention(r"double_blocks\.\d+\.attn", image_first),
    ),
    Family(
        "Mage-Flow",
        "mage_flow.model.MageFlowTransformer2DModel",
        JointAttention(r"transformer_blocks\.\d+\.attn", text_image_references),
    ),
    Family(
        "Ideogram 4",
        "ideogram4.model.Ideogram4Transformer2DModel",
        JointAttention(r"layers\.\d+\.attention", image_last, patch=packed_already),
    ),
    Family(
        "Boogu", "boogu.model.BooguTransformer2DModel", JointAttention(BOOGU_LAYERS, image_last)
    ),
    Family(
        "PixelDiT",
        "pixeldit.model.PixDiT_T2I",
        JointAttention(r"(patch|pixel)_blocks\.\d+\.attn", text_image_references),
    ),
)


def plain(network: nn.Module) -> nn.Module:
    """The network itself where torch.compile has wrapped it."""
    return getattr(network, "_orig_mod", network)


def find_family(network: nn.Module) -> Family | None:
    """The family of a network, compiled or not."""
    return next((family for family in FAMILIES if family.has(plain(network))), None)
