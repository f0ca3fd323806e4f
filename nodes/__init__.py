"""The nodes of the pack: schemas and a few lines of glue."""

from comfy_api.latest import ComfyExtension, io

from .benchmark_node import BiGainBenchmark
from .best_of_n_node import BiGainBestOfN
from .classification_nodes import BiGainDiffusionClassifier, BiGainGate, BiGainPrompts
from .compare_models_node import BiGainCompareModels
from .compare_node import BiGainCompare
from .compression_nodes import BiGainAuto, BiGainReport
from .dit_nodes import BiGainDiTLabels, BiGainDiTLoader
from .evaluation_node import BiGainEvaluate
from .evidence_nodes import BiGainEvidenceMap, BiGainRankImages
from .kv_nodes import BiGainAlphaSchedule, BiGainKVDownsampling
from .merging_node import BiGainTokenMerging
from .sample_images_node import BiGainSampleImages
from .tagging_node import BiGainTagFolder
from .token_map_node import BiGainTokenMap


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
            BiGainSampleImages,
            BiGainGate,
            BiGainTagFolder,
            BiGainEvaluate,
            BiGainEvidenceMap,
            BiGainRankImages,
            BiGainTokenMap,
            BiGainBenchmark,
            BiGainCompare,
            BiGainCompareModels,
            BiGainBestOfN,
        ]
