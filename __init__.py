"""BiGain: faster image generation that keeps detail, and zero-shot classification."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    from .nodes import BiGainExtension  # nothing heavy is imported before the host asks for nodes

    return BiGainExtension()
