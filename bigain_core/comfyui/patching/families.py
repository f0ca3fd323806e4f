"""The model families that can be compressed: adding one is a row here and a test."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter

from torch import nn

from ...compression.automatic import WHOLE_PROCESS
from ...compression.network_call import NetworkCall
from ...placement import unwrapped
from ...schedules import ActiveRange
from .adapter import AttentionAdapter
from .block_attention import BlockAttention, ClassConditionalDiT, hunyuan_dit, pixart
from .joint_attention import (
    JointAttention,
    before_image,
    hidream,
    hunyuan_video,
    image_alone,
    image_references_text,
    kandinsky6,
    ltxv,
    lumina,
    minimax_h3,
    registers_text_image,
    text_image_references,
    text_references_image,
    wan,
)
from .unet import UNet


@dataclass(frozen=True)
class Family:
    """A class of networks, by its path below `package`, and the way to its self-attention.

    A path instead of the class itself lets a row name what only newer hosts have. Networks that
    inherit from it are of it but for those `without`, which call attention in ways of their own.
    BiGain (Auto) keeps to the part of the process that is `active`.
    """

    name: str
    network: str
    adapter: AttentionAdapter
    package: str = "comfy.ldm"
    active: ActiveRange = WHOLE_PROCESS
    without: tuple[str, ...] = ()

    def has(self, network: nn.Module) -> bool:
        paths = [f".{kind.__module__}.{kind.__qualname__}" for kind in type(network).__mro__]

        def inherits(name: str) -> bool:
            return any(path.endswith(f".{self.package}.{name}") for path in paths)

        return inherits(self.network) and not any(map(inherits, self.without))


MULTIMODAL_BLOCKS = ("double_blocks.*", "single_blocks.*")
BOOGU_LAYERS = (
    "noise_refiner.*.attn",
    "double_stream_layers.*.img_instruct_attn.processor|img_self_attn",
    "single_stream_layers.*.attn",
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
    Family("PixArt", "pixart.pixartms.PixArtMS", BlockAttention("attn", pixart, NetworkCall.plan)),
    Family(
        "HunyuanDiT",
        "hydit.models.HunYuanDiT",
        BlockAttention("attn1", hunyuan_dit, NetworkCall.visit),
    ),
    Family(
        "Stable Diffusion 3",
        "modules.diffusionmodules.mmdit.MMDiT",
        JointAttention(("joint_blocks.*",), text_image_references, rotary=False),
    ),
    Family("Flux", "flux.model.Flux", JointAttention(MULTIMODAL_BLOCKS, text_image_references)),
    Family(
        "Chroma", "chroma.model.Chroma", JointAttention(MULTIMODAL_BLOCKS, text_image_references)
    ),
    Family(
        "AuraFlow",
        "aura.mmdit.MMDiT",
        JointAttention(
            ("double_layers.*.attn", "single_layers.*.attn"), registers_text_image, rotary=False
        ),
    ),
    Family(
        "Lumina 2, Z-Image",
        "lumina.model.NextDiT",
        JointAttention(("noise_refiner.*.attention", "layers.*.attention"), lumina),
    ),
    Family(
        "Qwen-Image",
        "qwen_image.model.QwenImageTransformer2DModel",
        JointAttention(("transformer_blocks.*.attn",), text_image_references),
    ),
    Family(
        "Qwen-Image 2.1",
        "qwen_image21.model.QwenImage21Transformer2DModel",
        JointAttention(
            ("transformer_blocks.*.attn",), before_image, image_queries=True, patch=packed_already
        ),
    ),
    Family(
        "Wan",
        "wan.model.WanModel",
        JointAttention(("blocks.*.self_attn",), wan, whole=("vace_blocks.*.self_attn",)),
        # One calls attention for a frame at a time, the other hands it no options.
        without=("wan.model_animate2.WanAnimate2Model", "wan.ar_model.CausalWanModel"),
    ),
    Family(
        "Cosmos Predict2",
        "cosmos.predict2.MiniTrainDIT",
        JointAttention(
            ("blocks.*.self_attn",),
            image_alone,
            patch=attrgetter("patch_temporal", "patch_spatial", "patch_spatial"),
        ),
    ),
    Family(
        "HiDream",
        "hidream.model.HiDreamImageTransformer2DModel",
        JointAttention(
            ("double_stream_blocks.*.block.attn1", "single_stream_blocks.*.block.attn1"), hidream
        ),
    ),
    Family(
        "LTX-Video",
        "lightricks.model.LTXVModel",
        JointAttention(
            ("transformer_blocks.*.attn1",),
            ltxv,
            patch=attrgetter("patchifier.patch_size"),
        ),
    ),
    # Motion is settled in the first steps and detail in the last: there users of sparse attention
    # keep H3 whole as well.
    Family(
        "MiniMax H3",
        "minimax.model.MiniMaxH3Model",
        JointAttention(("blocks.*.attn",), minimax_h3),
        active=ActiveRange(0.2, 0.9),
    ),
    Family(
        "HunyuanVideo, HunyuanImage",
        "hunyuan_video.model.HunyuanVideo",
        JointAttention(MULTIMODAL_BLOCKS, hunyuan_video),
    ),
    Family(
        "OmniGen2",
        "omnigen.omnigen2.OmniGen2Transformer2DModel",
        JointAttention(("noise_refiner.*.attn", "layers.*.attn"), text_references_image),
    ),
    Family(
        "Kandinsky 5",
        "kandinsky5.model.Kandinsky5",
        JointAttention(("visual_transformer_blocks.*.self_attention",), image_alone),
    ),
    Family(
        "Kandinsky 6",
        "kandinsky6.model.Kandinsky6",
        JointAttention(("visual_blocks.*.videoT.self_attention",), kandinsky6),
    ),
    Family(
        "Krea 2",
        "krea2.model.SingleStreamDiT",
        JointAttention(("blocks.*.attn",), text_image_references, patch=attrgetter("patch")),
    ),
    Family(
        "Lens",
        "lens.model.LensTransformer2DModel",
        JointAttention(("transformer_blocks.*.attn",), image_references_text, patch=packed_already),
    ),
    Family(
        "JoyImage",
        "joyimage.model.JoyImageTransformer3DModel",
        JointAttention(("double_blocks.*.attn",), image_references_text),
    ),
    Family(
        "Mage-Flow",
        "mage_flow.model.MageFlowTransformer2DModel",
        JointAttention(("transformer_blocks.*.attn",), text_image_references),
    ),
    Family(
        "Ideogram 4",
        "ideogram4.model.Ideogram4Transformer2DModel",
        JointAttention(("layers.*.attention",), text_references_image, patch=packed_already),
    ),
    Family(
        "Boogu",
        "boogu.model.BooguTransformer2DModel",
        JointAttention(BOOGU_LAYERS, text_references_image),
    ),
    Family(
        "PixelDiT",
        "pixeldit.model.PixDiT_T2I",
        JointAttention(("patch_blocks.*.attn", "pixel_blocks.*.attn"), text_image_references),
    ),
)


def find_family(network: nn.Module) -> Family | None:
    """The family of a network, compiled or not."""
    return next((family for family in FAMILIES if family.has(unwrapped(network))), None)
