"""BiGain: faster pictures that keep detail, and zero-shot classification with the same model."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    from .nodes import BiGainExtension  # nothing heavy is imported before the host asks for nodes

    return BiGainExtension()
