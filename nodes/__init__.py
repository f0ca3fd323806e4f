"""The nodes of the pack: schemas and a few lines of glue."""

from comfy_api.latest import ComfyExtension, io

from .benchmark import BiGainBenchmark
from .classification import BiGainDiffusionClassifier, BiGainGate, BiGainPrompts
from .compression import BiGainAuto, BiGainReport
from .dit import BiGainDiTLabels, BiGainDiTLoader
from .evaluation import BiGainEvaluate
from .evidence import BiGainEvidenceMap, BiGainRankImages
from .keys_and_values import BiGainAlphaSchedule, BiGainKVDownsampling
from .merging import BiGainTokenMerging
from .token_map import BiGainTokenMap


class BiGainExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            BiGainTokenMerging,
            BiGainKVDownsampling,
            BiGainAlphaSchedule,
            BiGainAuto,
            BiGainReport,
            BiGainPrompts,
            BiGainDiffusionClassifier,
            BiGainDiTLoader,
            BiGainDiTLabels,
            BiGainGate,
            BiGainEvaluate,
            BiGainEvidenceMap,
            BiGainRankImages,
            BiGainTokenMap,
            BiGainBenchmark,
        ]
