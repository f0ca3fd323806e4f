"""Networks made from Wan's: what they add to its sequence, and what they add to its tokens."""

from types import SimpleNamespace

from comfy.ldm.wan.model import WanModel

from .case import EVEN, Case, Layer, image, prompt
from .models import Network
from .self_attention import WAN

SEEN = {"clip_vision_output": SimpleNamespace(penultimate_hidden_states=image(1, 5, 1280))}
SHOWN = {**SEEN, "concat_latent_image": image(1, 16, 3, 12, 20)}
WHOLE_FRAME = (("reference", 6 * 10),)
REFERENCE = {"reference_latents": [image(1, 16, 1, 8, 10)]}
OF_REFERENCE = (("reference", 4 * 5),)
MOTION = image(1, 16, 19, 16, 24)  # of which S2V makes one frame, then 2 x 2 and 4 x 4 of them
OF_MOTION = (("reference", 8 * 12 + 4 * 6 + 4 * 2 * 3),)
POSED = {
    **SEEN,
    "pose_video_latent": image(1, 16, 3, 6, 10),
    "reference_latents": [image(1, 16, 1, 12, 20)],
}
OF_POSE = (("pose", 3 * 3 * 5),)
IN_CONTEXT = "context_latents" in WanModel.forward_orig.__code__.co_consts


def wan(name, title, family, prefix=(), suffix=(), given=None, **keys):
    """A case of three frames with `given` in its conditioning."""
    fields = {name: keys.pop(name) for name in Case.__dataclass_fields__ if name in keys}
    layers = (Layer(r"blocks\.\d+\.self_attn", prefix, suffix),)
    fields = {"frames": 3, "references": ("reference_latent",), **fields}
    build = fields.pop("build", WAN).but(family, **keys)
    return Case(name, title, build, layers, prompt(**given or {}), **fields)


class WithFaces(Network):
    """Of faces in 512 x 512 pixels the host's encoder would need longer than all the rest."""

    def __call__(self, *args):
        model = super().__call__(*args)
        encoder = model.model.diffusion_model.motion_encoder
        encoder.get_motion = lambda pixels: pixels.flatten(1)
        return model


WAN_KINDS = (
    wan("wan_i2v", "Wan 2.1 image to video", "WAN21_I2V", given=SHOWN, model_type="i2v", in_dim=36),
    wan(
        "wan_fun_control", "Wan 2.1 Fun Control", "WAN21_FunControl2V",
        given={**SEEN, "concat_latent_image": image(1, 32, 3, 12, 20)},
        model_type="i2v", in_dim=48,
    ),
    wan("wan22_5b", "Wan 2.2 5B", "WAN22_T2V", in_dim=48, out_dim=48),
    wan(
        "wan_vace", "Wan 2.1 VACE", "WAN21_Vace", apart=r"vace_blocks\.\d+\.self_attn", sizes=EVEN,
        vace_layers=1, vace_in_dim=96,
    ),
    wan(
        "wan_camera", "Wan 2.1 Camera", "WAN21_Camera",
        given={**SEEN, "camera_conditions": image(1, 2, 3, 8 * 12, 8 * 20)}, sizes=EVEN,
        model_type="camera", in_dim=32, in_dim_control_adapter=2,
    ),
    wan(
        "wan_phantom", "Wan 2.1 Phantom with reference images", "WAN21_T2V",
        suffix=2 * WHOLE_FRAME, given={"time_dim_concat": image(1, 16, 2, 12, 20)}, sizes=EVEN,
        references=("time_dim_concat",),
    ),
    wan(
        "wan_in_context", "Wan 2.1 with reference videos in context", "WAN21_T2V",
        suffix=(("reference", 2 * 4 * 5 + 6 * 3),),
        given={"context_latents": [image(1, 16, 2, 8, 10), image(1, 16, 1, 12, 6)]},
        references=("context_latents",), ignored=not IN_CONTEXT,
    ),
    wan(
        "wan_humo", "Wan 2.1 HuMo with a reference image and sound", "WAN21_HuMo",
        suffix=WHOLE_FRAME,
        given={"reference_latents": [image(1, 16, 1, 12, 20)], "audio_embed": (1, 3, 8, 5, 1280)},
        sizes=EVEN,
    ),
    wan(
        "wan_s2v", "Wan 2.2 S2V with a reference image and earlier frames", "WAN22_S2V",
        suffix=(*OF_REFERENCE, *OF_MOTION),
        given={
            **REFERENCE, "reference_motion": MOTION, "control_video": image(1, 16, 3, 12, 20),
            "audio_embed": (1, 25, 8, 12),
        },
        sizes=EVEN, references=("reference_latent", "reference_motion"),
        audio_dim=8, audio_inject_layers=[0],
    ),
    wan(
        "wan_animate", "Wan 2.2 Animate with poses and faces", "WAN22_Animate",
        given={
            **SHOWN, "pose_video_latent": image(1, 16, 2, 12, 20),
            "face_video_pixels": image(1, 2, 5, 16, 16),  # as many as a face has numbers
        },
        sizes=EVEN, build=WithFaces("WAN22_Animate", **WAN.config), in_dim=36, num_layers=5,
    ),
    wan(
        "wan_scail", "Wan 2.1 SCAIL with a reference image and poses", "WAN21_SCAIL",
        prefix=WHOLE_FRAME, suffix=OF_POSE, given=POSED, sizes=EVEN, in_dim=20,
    ),
    wan(
        "wan_scail2", "Wan 2.1 SCAIL-2 with a reference image, poses and masks", "WAN21_SCAIL2",
        prefix=WHOLE_FRAME, suffix=OF_POSE,
        given={
            **POSED, "driving_mask_28ch": image(1, 3, 28, 6, 10),
            "ref_mask_28ch": image(1, 4, 28, 12, 20),
        },
        sizes=EVEN, in_dim=20,
    ),
    wan(
        "wan_dancer", "Wan 2.2 Dancer", "WAN22_WanDancer",
        given={**SHOWN, "audio_embed": (1, 12, 35)},
        sizes=((8, 16), (7, 15)),  # music comes in eighths of a frame
        in_dim=36, audio_inject_layers=[0],
    ),
)  # fmt: skip

OUT_OF_REACH = (
    wan("wan_animate2", "Wan Animate 2", "WAN_Animate2", in_dim=36),
    wan("wan_causal", "Wan 2.1, causal", "WAN21_CausalAR_T2V"),
)
