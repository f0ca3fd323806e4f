"""Transformers that denoise a video and its sound together, in a latent of two streams."""

from .case import PROMPT, SMALL, WIDTH, Case, Layer, image, padded_prompt, prompt
from .models import Network

H3 = Network(
    "MiniMaxH3", hidden_size=64, num_layers=2, token_refiner_num_layers=1, num_attention_heads=2,
    attention_head_dim=32, ffn_hidden_size=64, text_dim=WIDTH, timestep_input_dim=16,
    time_embed_hidden_size=32, time_embed_dim=32, rope_inv_freq_len=4,
)  # fmt: skip
LTXAV = Network(
    "LTXAV", cross_attention_dim=64, audio_cross_attention_dim=32, attention_head_dim=32,
    audio_attention_head_dim=16, num_attention_heads=2, audio_num_attention_heads=2,
    caption_channels=WIDTH, num_layers=2, connector_attention_head_dim=12,
    connector_num_attention_heads=2,
)  # fmt: skip

SIZES = ((8, 12), (7, 9))
AUDIO = (("audio", 2 * 5),)  # of a latent of 5 in stereo
KEYFRAMES = {
    "minimax_keyframes": [
        {"latent": image(1, 24, 1, 8, 12), "resolved_frame_index": 0},
        {
            "latent": image(1, 24, 1, 8, 12) + 1, "audio_latent": image(1, 32, 2, 3),
            "resolved_frame_index": 4,
        },
        {"audio_latent": image(1, 32, 2, 2), "resolved_frame_index": 8},
    ],
}  # fmt: skip
IMAGE = {"kind": "image", "latent": image(1, 24, 1, 8, 4), "latent_h": 8, "latent_w": 4}
VOICE = {"kind": "audio", "audio_latent": image(1, 32, 2, 4), "ref_audio_t": 4}
SILENT = {
    "kind": "video", "latent": image(1, 24, 2, 4, 6), "latent_t": 2, "latent_h": 4, "latent_w": 6,
    "ref_audio_t": 0,
}  # fmt: skip
FILM = SILENT | {"kind": "video_audio", "audio_latent": image(1, 32, 2, 3), "ref_audio_t": 3}
REFERENCES = {"minimax_refs": [IMAGE, VOICE, SILENT, FILM]}
OF_KEYFRAMES = (("reference", 24 + 24 + 2 * 3 + 2 * 2),)
OF_REFERENCES = (("reference", 8 + 2 * 4 + 12 + 2 * 3 + 12),)


def h3(name, title, before=(), sizes=SIZES, **conditions):
    return Case(
        name,
        title,
        H3,
        (Layer(r"blocks\.\d+\.attn", (*PROMPT, *before, *AUDIO)),),
        prompt(**conditions),
        frames=2,
        channels=24,
        audio=(32, 2, 5),
        sizes=sizes,
        references=("minimax_payload",),
    )


WITH_SOUND = (
    Case(
        "ltxav", "LTX-2 with sound", LTXAV, (Layer(r"transformer_blocks\.\d+\.attn1", patch=1),),
        prompt(width=2 * WIDTH, attention_mask=padded_prompt()), frames=2, audio=(8, 5, 16),
        sizes=SMALL,
        apart=r"transformer_blocks\.(\d+\.video_to_audio_attn|1\.audio_(attn1|to_video_attn))",
    ),
    h3("minimax_h3", "MiniMax H3"),
    h3("minimax_h3_keyframes", "MiniMax H3 with keyframes", OF_KEYFRAMES, SIZES[:1], **KEYFRAMES),
    h3("minimax_h3_references", "MiniMax H3 with references", OF_REFERENCES, **REFERENCES),
    h3(
        "minimax_h3_both", "MiniMax H3 with keyframes and references",
        (*OF_KEYFRAMES, *OF_REFERENCES), SIZES[:1], **KEYFRAMES, **REFERENCES,
    ),
)  # fmt: skip
