"""The nodes of the pack: schemas and a few lines of glue."""

from comfy_api.latest import ComfyExtension, io

from .classification import BiGainDiffusionClassifier, BiGainPrompts
from .compression import BiGainKVDownsampling, BiGainReport, BiGainTokenMerging
from .dit import BiGainDiTLabels, BiGainDiTLoader


class BiGainExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            BiGainTokenMerging,
            BiGainKVDownsampling,
            BiGainReport,
            BiGainPrompts,
            BiGainDiffusionClassifier,
            BiGainDiTLoader,
            BiGainDiTLabels,
        ]
