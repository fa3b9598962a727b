"""Jobs for tests: a valid one, and many with a mistake in one field."""

import copy
from dataclasses import dataclass
from typing import Any

REMOVED = object()
"""The value of a change that removes the field."""


def small_job() -> dict[str, Any]:
    """Return a valid job with the required fields only."""
    return {
        "apiVersion": "promptintern.dev/v1alpha1",
        "kind": "PromptInternJob",
        "metadata": {"name": "small"},
        "spec": {
            "model": {"uri": "sample://formulas"},
            "data": {"train": {"uri": "s3://rows/train.jsonl"}, "eval": {"uri": "s3://rows/eval.jsonl"}},
            "prompt": {"template": "Write a formula.\n{examples}{query}\n="},
        },
    }


def with_changes(document: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of ``document`` in which each path, such as ``a.b.0``, has its value; a number is a list index."""
    result = copy.deepcopy(document)
    for path, value in changes.items():
        *parents, leaf = [int(key) if key.isdigit() else key for key in path.split(".")]
        node: Any = result
        for key in parents:
            node = node[key] if isinstance(key, int) else node.setdefault(key, {})
        if value is REMOVED:
            del node[leaf]
        else:
            node[leaf] = copy.deepcopy(value)
    return result


@dataclass(frozen=True, kw_only=True)
class BadJob:
    """A change to ``small_job`` that makes it invalid."""

    changes: dict[str, Any]
    field: str
    message: str
    """A part of the expected message."""

    @property
    def document(self) -> dict[str, Any]:
        return with_changes(small_job(), self.changes)

    @property
    def label(self) -> str:
        return "-".join(self.changes)[:60] + f"={str(next(iter(self.changes.values())))[:20]}"


_MODEL = "hf://acme/encoder@main"
_STAGE = {"templateRate": 1, "shots": 2}
_LAST = {"templateRate": 0, "shots": 0}
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_NODE_TERMS = f"spec.compute.affinity.nodeAffinity.{_REQUIRED}.nodeSelectorTerms"
_NODE_ITEM = f"{_NODE_TERMS}[0].matchExpressions[0]"
_LARGEST = 262_144 - len("{query}\n{answer}\n\n")
"""The largest template beside the default example template, in bytes."""


def _required_node(term: dict[str, Any]) -> dict[str, Any]:
    return {"nodeAffinity": {_REQUIRED: {"nodeSelectorTerms": [term]}}}


def _template(size: int, letter: str = "a") -> str:
    """Return a template of ``size`` bytes."""
    rest = size - len("{examples}{query}")
    width = len(letter.encode())
    return "{examples}{query}" + letter * (rest // width) + "a" * (rest % width)


_QUERIES = {"uri": "s3://rows/queries.jsonl"}
_ONLY_QUERIES = {"queries": _QUERIES, "eval": {"uri": "s3://rows/eval.jsonl"}}


def _bad(changes: dict[str, Any], field: str, message: str) -> BadJob:
    return BadJob(changes=changes, field=field, message=message)


BAD_JOBS = (
    # Required fields
    _bad({"spec.model": REMOVED}, "spec.model", "is required"),
    _bad({"spec.data.eval": REMOVED}, "spec.data.eval", "is required"),
    _bad({"spec.prompt.template": REMOVED}, "spec.prompt.template", "is required"),
    _bad({"spec.model.uri": REMOVED}, "spec.model.uri", "is required"),
    _bad({"spec.evaluation.prices": {"inputPerMillion": 1}}, "spec.evaluation.prices.outputPerMillion", "is required"),
    _bad({"spec.data.eval": None}, "spec.data.eval", "is required"),
    _bad({"spec": REMOVED}, "spec", "is required"),
    _bad({"spec.storage": {"endpoint": "http://s3"}}, "spec.storage.uri", "is required"),
    _bad({"spec.compute.modelCache": {}}, "spec.compute.modelCache.claimName", "is required"),
    _bad({"spec.compute.imagePullSecrets": [{}]}, "spec.compute.imagePullSecrets[0].name", "is required"),
    # Unknown fields
    _bad({"spec.shedule": None}, "spec.shedule", "did you mean schedule?"),
    _bad({"spec.shedule": {}}, "spec.shedule", "did you mean schedule?"),
    _bad(
        {"spec.training.lora.rank": 4},
        "spec.training.lora.rank",
        "the known fields are alpha, dropout, r, targetModules",
    ),
    _bad({"spec.training.learning_rate": 1}, "spec.training.learning_rate", "did you mean learningRate?"),
    _bad({"spec.data.train.columns": {"querry": "q"}}, "spec.data.train.columns.querry", "did you mean query?"),
    _bad(
        {"spec.compute.affinity": {"podAfinity": {}}}, "spec.compute.affinity.podAfinity", "did you mean podAffinity?"
    ),
    _bad({"spec.compute.podTemplate": {}}, "spec.compute.podTemplate", "is not a known field"),
    _bad({"spec.compute.affinity": _required_node({"deep": {}})}, f"{_NODE_TERMS}[0].deep", "is not a known field"),
    # Types
    _bad({"spec.model": "sample://formulas"}, "spec.model", "should be an object"),
    _bad({"spec.schedule.stages": "4"}, "spec.schedule.stages", "should be a valid integer, got '4'"),
    _bad({"spec.schedule.stages": True}, "spec.schedule.stages", "should be a valid integer, got True"),
    _bad({"spec.schedule.stages": 2.5}, "spec.schedule.stages", "should be a valid integer"),
    _bad({"spec.training.learningRate": "fast"}, "spec.training.learningRate", "should be a valid number, got 'fast'"),
    _bad({"spec.training.learningRate": True}, "spec.training.learningRate", "should be a valid number, got True"),
    _bad({"spec.suspend": "yes"}, "spec.suspend", "should be a valid boolean"),
    _bad({"spec.suspend": 1}, "spec.suspend", "should be a valid boolean"),
    _bad({"spec.prompt.template": 7}, "spec.prompt.template", "should be a valid string, got 7"),
    _bad({"spec.prompt.protect": "="}, "spec.prompt.protect", "should be a valid array"),
    _bad({"spec.compute.nodeSelector": {"zone": 1}}, "spec.compute.nodeSelector.zone", "should be a valid string"),
    _bad({"spec.retries": 3}, "spec.retries", "should be an object"),
    # Ranges
    _bad({"spec.schedule.stages": 0}, "spec.schedule.stages", "greater than or equal to 1, got 0"),
    _bad({"spec.schedule.shots": -1}, "spec.schedule.shots", "greater than or equal to 0, got -1"),
    _bad({"spec.schedule.finalRate": 1.0}, "spec.schedule.finalRate", "less than 1, got 1.0"),
    _bad({"spec.training.lora": {"r": 0}}, "spec.training.lora.r", "greater than or equal to 1"),
    _bad({"spec.training.learningRate": 0}, "spec.training.learningRate", "greater than 0"),
    _bad({"spec.evaluation.gate": {"maxDrop": 2}}, "spec.evaluation.gate.maxDrop", "less than or equal to 1, got 2"),
    _bad({"spec.evaluation.metrics": []}, "spec.evaluation.metrics", "should have at least 1 item"),
    _bad({"spec.prompt.template": ""}, "spec.prompt.template", "should have at least 1 character"),
    _bad({"spec.schedule.stages": 65}, "spec.schedule.stages", "less than or equal to 64, got 65"),
    _bad({"spec.training.learningRate": 1.5}, "spec.training.learningRate", "less than or equal to 1, got 1.5"),
    _bad({"spec.training.lora": {"dropout": 1}}, "spec.training.lora.dropout", "less than 1"),
    _bad({"spec.training.seed": 2**31}, "spec.training.seed", "less than or equal to 2147483647"),
    _bad({"spec.evaluation.stop": [""]}, "spec.evaluation.stop[0]", "should have at least 1 character"),
    _bad({"spec.data.train.limit": 0}, "spec.data.train.limit", "greater than or equal to 1, got 0"),
    _bad({"spec.data.eval.columns": {"query": ""}}, "spec.data.eval.columns.query", "should have at least 1 character"),
    _bad({"spec.prompt.protect": ["="] * 17}, "spec.prompt.protect", "should have at most 16 items"),
    _bad({"spec.model.uri": "hf://" + "m" * 1020}, "spec.model.uri", "should have at most 1024 characters"),
    _bad({"spec.compute.workers": 0}, "spec.compute.workers", "greater than or equal to 1, got 0"),
    _bad({"spec.compute.gpusPerWorker": 17}, "spec.compute.gpusPerWorker", "less than or equal to 16, got 17"),
    _bad({"spec.checkpoint": {"everySeconds": 0}}, "spec.checkpoint.everySeconds", "greater than or equal to 1, got 0"),
    _bad({"spec.retries": {"application": 101}}, "spec.retries.application", "less than or equal to 100, got 101"),
    _bad({"spec.activeDeadlineSeconds": 0}, "spec.activeDeadlineSeconds", "greater than or equal to 1, got 0"),
    _bad({"spec.ttlSecondsAfterFinished": -1}, "spec.ttlSecondsAfterFinished", "greater than or equal to 0, got -1"),
    # Enums and patterns
    _bad(
        {"spec.schedule.curve": "linear"},
        "spec.schedule.curve",
        "'Linear', 'Exponential', 'InverseExponential' or 'Adaptive'",
    ),
    _bad({"spec.model.dtype": "float16"}, "spec.model.dtype", "'float32' or 'bfloat16', got 'float16'"),
    _bad({"spec.evaluation.metrics": ["F1"]}, "spec.evaluation.metrics[0]", "'PassAt1' or 'Scorer', got 'F1'"),
    _bad(
        {"spec.model.uri": "http://models/x"},
        "spec.model.uri",
        "'http://models/x' must start with one of hf://, s3://, file://, sample://",
    ),
    _bad({"spec.data.train.uri": "s3://"}, "spec.data.train.uri", "'s3://' names nothing after the scheme"),
    _bad(
        {"spec.data.train.uri": "http://rows"},
        "spec.data.train.uri",
        "'http://rows' must start with one of hf://, s3://, file://, sample://",
    ),
    _bad(
        {"spec.storage": {"uri": "gs://bucket"}},
        "spec.storage.uri",
        "'gs://bucket' must start with one of s3://, file://",
    ),
    _bad({"spec.compute.resources": {"memory": "32 GB"}}, "spec.compute.resources.memory", "'32 GB' does not match"),
    _bad({"spec.model.secretRef": {"name": "My Secret"}}, "spec.model.secretRef.name", "does not match"),
    _bad({"metadata.name": "Small"}, "metadata.name", "'Small' does not match"),
    _bad({"metadata.name": "s" * 41}, "metadata.name", "at most 40 characters"),
    _bad({"metadata.name": "small.job"}, "metadata.name", "'small.job' does not match"),
    _bad({"metadata.name": "1small"}, "metadata.name", "'1small' does not match"),
    _bad({"spec.data.onLeak": "Ignore"}, "spec.data.onLeak", "'Error' or 'Drop', got 'Ignore'"),
    _bad({"spec.compute.device": "GPU"}, "spec.compute.device", "'Auto', 'CPU' or 'CUDA', got 'GPU'"),
    _bad({"spec.compute.rayVersion": "2.x"}, "spec.compute.rayVersion", "'2.x' does not match"),
    *(
        _bad({"spec.compute.affinity": _required_node({"matchExpressions": [item]})}, f"{_NODE_ITEM}.{field}", problem)
        for item, field, problem in (
            ({"key": "zone", "operator": "Near"}, "operator", "does not match"),
            ({"key": "zone", "operator": "In"}, "values", "must be set for operators In and NotIn"),
            ({"key": "zone", "operator": "Exists", "values": ["a"]}, "values", "left out for Exists and DoesNotExist"),
            ({"key": "cores", "operator": "Gt", "values": ["many"]}, "values", "must be one integer"),
            ({"key": "zone", "operator": "In", "values": ["a" * 64]}, "values[0]", "at most 63 characters"),
        )
    ),
    _bad(
        {"spec.compute.affinity": {"podAffinity": {_REQUIRED: [{}]}}},
        f"spec.compute.affinity.podAffinity.{_REQUIRED}[0].topologyKey",
        "is required",
    ),
    *(
        _bad(
            {"spec.compute.modelCache": {"claimName": "models", "mountPath": path}},
            "spec.compute.modelCache.mountPath",
            "replace the image's own files",
        )
        for path in ("//", "/opt/promptintern", "/usr", "/etc/x", "/models/../usr", "/./x", "//usr", "/tmp", "/var/")
    ),
    _bad({"spec.compute.nodeSelector": {"zone": "a" * 64}}, "spec.compute.nodeSelector.zone", "at most 63 characters"),
    _bad({"spec.compute.tolerations": [{"operator": "In"}]}, "spec.compute.tolerations[0].operator", "does not match"),
    _bad(
        {"spec.compute.tolerations": [{"effect": "NoSchedule"}]},
        "spec.compute.tolerations[0].operator",
        "must be Exists if key is left out",
    ),
    _bad(
        {"spec.compute.tolerations": [{"key": "gpu", "operator": "Exists", "value": "yes"}]},
        "spec.compute.tolerations[0].value",
        "left out if operator is Exists",
    ),
    _bad(
        {"spec.compute.tolerations": [{"key": "gpu", "effect": "NoSchedule", "tolerationSeconds": 60}]},
        "spec.compute.tolerations[0].effect",
        "must be NoExecute",
    ),
    _bad(
        {"spec.compute.modelCache": {"claimName": "models", "mountPath": "models"}},
        "spec.compute.modelCache.mountPath",
        "'models' does not match",
    ),
    _bad(
        {"spec.storage": {"uri": "s3://bucket", "endpoint": "s3.example"}},
        "spec.storage.endpoint",
        "'s3.example' does not match",
    ),
    # Rules across fields
    _bad({"spec.prompt.template": "no query {examples}"}, "spec.prompt.template", "{query} exactly once"),
    _bad({"spec.prompt.template": "{examples}{query}{query}"}, "spec.prompt.template", "{query} exactly once"),
    _bad({"spec.prompt.template": "{examples}{examples}{query}"}, "spec.prompt.template", "{examples} at most once"),
    _bad({"spec.prompt.template": "{examples}{query}{answer}"}, "spec.prompt.template", "must not hold {answer}"),
    _bad({"spec.prompt.template": "{query}"}, "spec.prompt.template", "must hold {examples}"),
    _bad({"spec.prompt.exampleTemplate": "{query}"}, "spec.prompt.exampleTemplate", "{query} and {answer}"),
    _bad({"spec.prompt.protect": ["SQL"]}, "spec.prompt.protect", "occur literally in the template"),
    _bad({"spec.prompt.protect": ["{query}"]}, "spec.prompt.protect", "hold no placeholder"),
    _bad(
        {"spec.prompt.compressor": {"kind": "LLMLingua2"}}, "spec.prompt.compressor.modelUri", "is required if kind is"
    ),
    _bad(
        {"spec.prompt.compressor": {"modelUri": _MODEL}},
        "spec.prompt.compressor.modelUri",
        "must be left out otherwise",
    ),
    _bad(
        {"spec.prompt.compressor": {"kind": "Precomputed"}},
        "spec.prompt.compressor.templates",
        "is required if kind is",
    ),
    _bad(
        {"spec.prompt.compressor": {"kind": "Precomputed", "templates": [{"rate": 0.5, "template": "none"}]}},
        "spec.prompt.compressor.templates[0].template",
        "{query} exactly once",
    ),
    _bad({"spec.prompt.retriever": {"kind": "Embedding"}}, "spec.prompt.retriever.modelUri", "is required if kind is"),
    _bad({"spec.schedule": {"explicit": [_LAST], "shots": 1}}, "spec.schedule.explicit", "cannot be combined with"),
    _bad(
        {"spec.schedule": {"explicit": [_STAGE, {"templateRate": 1, "shots": 3}, _LAST]}},
        "spec.schedule.explicit",
        "must not raise templateRate or shots",
    ),
    _bad(
        {"spec.schedule": {"explicit": [{"templateRate": 0.5, "shots": 2}, {"templateRate": 0.75, "shots": 0}]}},
        "spec.schedule.explicit",
        "must not raise templateRate or shots",
    ),
    _bad(
        {"spec.schedule": {"explicit": [_STAGE]}}, "spec.schedule.explicit", "must end with a stage that has shots: 0"
    ),
    _bad({"spec.training.tokensPerPack": 65536}, "spec.training.tokensPerPack", "not be larger than tokensPerBatch"),
    _bad({"spec.evaluation.metrics": ["BLEU", "BLEU"]}, "spec.evaluation.metrics", "must not repeat a metric"),
    _bad(
        {"spec.evaluation.arms": ["QueryOnly", "FullPrompt", "QueryOnly"]},
        "spec.evaluation.arms",
        "must not repeat an arm",
    ),
    _bad({"spec.evaluation.metrics": ["Scorer"]}, "spec.evaluation.scorer", "is required if metrics has Scorer"),
    _bad({"spec.evaluation.scorer": {"command": ["score"]}}, "spec.evaluation.scorer", "is required if metrics has"),
    _bad(
        {"spec.evaluation": {"metrics": ["Scorer"], "scorer": {"command": ["score"], "entryPoint": "a:b"}}},
        "spec.evaluation.scorer.entryPoint",
        "either entryPoint or command is required, and not both",
    ),
    _bad(
        {"spec.evaluation": {"metrics": ["Scorer"], "scorer": {}}},
        "spec.evaluation.scorer.entryPoint",
        "either entryPoint or command is required, and not both",
    ),
    _bad(
        {"spec.evaluation": {"metrics": ["Scorer"], "scorer": {"entryPoint": "a b"}}},
        "spec.evaluation.scorer.entryPoint",
        "",
    ),
    _bad(
        {"spec.storage": {"uri": "s3://b/r", "kmsKeyId": "k"}},
        "spec.storage.kmsKeyId",
        "needs serverSideEncryption: KMS",
    ),
    _bad({"spec.storage": {"uri": "s3://b/r", "addressingStyle": "path"}}, "spec.storage.addressingStyle", "'Path'"),
    _bad({"spec.evaluation.passAtK": {}}, "spec.evaluation.passAtK", "needs the metric PassAt1"),
    _bad(
        {"spec.evaluation": {"metrics": ["PassAt1"], "passAtK": {"samples": 5}}},
        "spec.evaluation.passAtK.k",
        "must not hold a number above samples",
    ),
    _bad(
        {"spec.evaluation": {"metrics": ["PassAt1"], "passAtK": {"k": [2, 2]}}},
        "spec.evaluation.passAtK.k",
        "must not hold a number above samples, nor a number twice",
    ),
    _bad({"spec.evaluation.normalizers": ["Case", "Case"]}, "spec.evaluation.normalizers", "must not repeat"),
    _bad(
        {"spec.evaluation": {"metrics": ["BLEU"], "normalizers": ["Case"]}},
        "spec.evaluation.normalizers",
        "is only for ExactMatch",
    ),
    _bad({"spec.evaluation.arms": ["QueryOnly", "Base"]}, "spec.evaluation.arms", "must hold QueryOnly and FullPrompt"),
    _bad({"spec.compute": {"device": "CPU", "gpusPerWorker": 1}}, "spec.compute.gpusPerWorker", "must be 0"),
    *(
        _bad({"spec.compute": {"podLabels": {key: "x"}}}, "spec.compute.podLabels", "begin with promptintern.dev/")
        for key in ("promptintern.dev/job", "ray.io/cluster", "app.kubernetes.io/managed-by", "job-name")
    ),
    _bad({"spec.compute": {"podLabels": {"a b": "x"}}}, "spec.compute.podLabels", "keys of the form NAME"),
    _bad({"spec.compute": {"podLabels": {"a/b/c": "x"}}}, "spec.compute.podLabels", "keys of the form NAME"),
    _bad({"spec.compute": {"podLabels": {"a" * 64: "x"}}}, "spec.compute.podLabels", "at most 63 characters"),
    _bad({"spec.compute": {"podLabels": {"a": "x y"}}}, "spec.compute.podLabels.a", ""),
    _bad({"spec.compute": {"podAnnotations": {"ray.io/x": "y"}}}, "spec.compute.podAnnotations", "or ray.io/"),
    _bad({"spec.compute": {"podAnnotations": {"": "y"}}}, "spec.compute.podAnnotations", "keys of the form NAME"),
    *(
        _bad({"spec.compute": {"env": [{"name": name, "value": "x"}]}}, "spec.compute.env[0].name", message)
        for name, message in (
            ("LD_PRELOAD", ""),
            ("PYTHONPATH", ""),
            ("AWS_SECRET_ACCESS_KEY", ""),
            ("PROMPTINTERN_JOB", ""),
            ("NCCL_NET_PLUGIN", "loads a library"),
            ("NCCL_TOPO_FILE", "names a file"),
        )
    ),
    _bad({"spec.compute": {"env": [{"name": "HF_ENDPOINT"}]}}, "spec.compute.env[0].value", ""),
    _bad(
        {"spec.compute": {"env": [{"name": "HF_ENDPOINT", "value": value} for value in "ab"]}},
        "spec.compute.env",
        "must not name a variable twice",
    ),
    _bad({"spec.compute": {"gpuResource": "gpu"}}, "spec.compute.gpuResource", "'gpu' does not match"),
    # The teacher
    _bad({"spec.data.train": REMOVED}, "spec.data.train", "is required unless data.queries or data.generate is set"),
    _bad({"spec.data.generate": {"count": 0}}, "spec.data.generate.count", "greater than or equal to 1"),
    _bad({"spec.data.generate": {"temperature": 0}}, "spec.data.generate.temperature", "greater than or equal to 0.01"),
    _bad({"spec.data.generate": {"minValid": 2}}, "spec.data.generate.minValid", "less than or equal to 1"),
    _bad({"spec.data": _ONLY_QUERIES, "spec.schedule.shots": 1}, "spec.schedule.shots", "must be 0 without data.train"),
    _bad(
        {"spec.data": _ONLY_QUERIES, "spec.training.teacher": {"model": "PreviousStage"}},
        "spec.training.teacher.model",
        "stage",
    ),
    _bad(
        {"spec.data": _ONLY_QUERIES, "spec.schedule": {"explicit": [_STAGE, _LAST]}},
        "spec.schedule.shots",
        "set shots to 0 in every stage",
    ),
    _bad({"spec.training.teacher": {}}, "spec.training.teacher", "has nothing to teach without data.queries"),
    _bad(
        {"spec.data.queries": _QUERIES, "spec.training.teacher": {"loss": "Answers", "topK": 8}},
        "spec.training.teacher.topK",
        "must be left out if loss is Answers",
    ),
    _bad(
        {"spec.training.teacher": {"model": "BestStage", "loss": "Answers"}},
        "spec.training.teacher",
        "has nothing to teach without data.queries",
    ),
    _bad(
        {
            "spec.data.queries": _QUERIES,
            "spec.training.teacher": {"model": "PreviousStage"},
            "spec.training.betweenStages": {"learningRate": "Continue"},
        },
        "spec.training.betweenStages.learningRate",
        "must be Restart if a stage teaches",
    ),
    _bad(
        {"spec.schedule": {"curve": "Adaptive"}, "spec.training.betweenStages": {"learningRate": "Continue"}},
        "spec.training.betweenStages.learningRate",
        "must be Restart with schedule.curve Adaptive",
    ),
    _bad(
        {"spec.schedule": {"curve": "Adaptive"}, "spec.evaluation": {"gate": {"onFail": "Stop"}}},
        "spec.evaluation.gate.onFail",
        "must be Continue with schedule.curve Adaptive",
    ),
    _bad(
        {"spec.training.teacher": {"model": "PreviousStage"}, "spec.schedule": {"explicit": [_LAST]}},
        "spec.training.teacher.model",
        "must be Base if there is only one stage",
    ),
    _bad(
        {"spec.training.teacher": {"model": "BestStage"}, "spec.schedule": {"stages": 1}},
        "spec.training.teacher.model",
        "must be Base if there is only one stage",
    ),
    _bad(
        {
            "spec.data.queries": _QUERIES,
            "spec.training.teacher": {"model": "BestStage"},
            "spec.evaluation": {"reference": "FullPrompt"},
        },
        "spec.training.teacher.model",
        "must be Base or PreviousStage if evaluation.reference is FullPrompt",
    ),
    _bad(
        {"spec.data.queries": _QUERIES, "spec.training.teacher": {"topK": 0}},
        "spec.training.teacher.topK",
        "greater than or equal to 1",
    ),
    _bad(
        {"spec.data.queries": _QUERIES, "spec.training.teacher": {"weight": 0}},
        "spec.training.teacher.weight",
        "greater than 0",
    ),
    _bad(
        {"spec.data.queries": _QUERIES, "spec.training.teacher": {"samples": {"count": 1}}},
        "spec.training.teacher.samples.count",
        "greater than or equal to 2",
    ),
    _bad(
        {"spec.data.queries": _QUERIES, "spec.training.teacher": {"samples": {"minAgreement": 1.5}}},
        "spec.training.teacher.samples.minAgreement",
        "less than or equal to 1",
    ),
    _bad(
        {"spec.evaluation.retention": {"template": "{query}"}},
        "spec.evaluation.retention.data",
        "is required with template",
    ),
    _bad(
        {"spec.evaluation.retention": {"template": "no query", "data": _QUERIES}},
        "spec.evaluation.retention.template",
        "must hold the placeholder {query} exactly once",
    ),
    _bad(
        {"spec.evaluation.retention": {"maxDivergence": 0}},
        "spec.evaluation.retention.maxDivergence",
        "greater than 0",
    ),
    _bad(
        {"spec.evaluation.reference": "Teacher"},
        "spec.evaluation.reference",
        "'Answers' or 'FullPrompt', got 'Teacher'",
    ),
    _bad(
        {"spec.data.queries": _QUERIES, "spec.training.teacher": {"loss": "ReverseKL"}},
        "spec.training.teacher.loss",
        "'ForwardKL', 'JensenShannon' or 'Answers', got 'ReverseKL'",
    ),
)

GOOD_CHANGES: tuple[dict[str, Any], ...] = (
    {},
    {"spec.prompt.template": "{query}", "spec.schedule": {"shots": 0}},
    {"spec.prompt.template": "{query}", "spec.schedule": {"explicit": [_LAST]}},
    {"spec.prompt.template": '{examples}{"a": {b}} {Query} {query}'},
    {"spec.prompt.protect": ["\n=", "formula"]},
    {"spec.compute.affinity": {"nodeAffinity": {}}},
    {"spec.compute.modelCache": {"claimName": "models", "mountPath": "/mnt/models.d"}},
    {"spec.compute.modelCache": {"claimName": "models", "mountPath": "/users/"}},
    {
        "spec.compute.affinity": _required_node(
            {
                "matchExpressions": [
                    {"key": "zone", "operator": "In", "values": ["a", "b"]},
                    {"key": "gpu", "operator": "Exists"},
                    {"key": "cores", "operator": "Gt", "values": ["-8"]},
                ],
                "matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["node-1"]}],
            }
        )
    },
    {
        "spec.compute.affinity": {
            "podAntiAffinity": {
                _REQUIRED: [{"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "a"}}}],
                "preferredDuringSchedulingIgnoredDuringExecution": [
                    {"weight": 5, "podAffinityTerm": {"topologyKey": "zone", "namespaceSelector": {}}}
                ],
            }
        }
    },
    {"spec.schedule": {"explicit": [_STAGE, _STAGE, {"templateRate": 0.5, "shots": 1, "epochs": 3}, _LAST]}},
    {"spec.schedule": {"stages": 64, "curve": "Exponential", "shots": 256, "finalRate": 0.25}},
    {"spec.prompt.compressor": {"kind": "LLMLingua2", "modelUri": _MODEL}},
    {"spec.prompt.compressor": {"kind": "Precomputed", "templates": [{"rate": 0.5, "template": "{query}"}]}},
    {"spec.prompt.retriever": {"kind": "Embedding", "modelUri": _MODEL}},
    {"spec.training": {"learningRate": 2e-4, "lora": {"r": 8, "alpha": 16}, "tokensPerPack": 64}},
    {"spec.training": {"lora": {}, "betweenStages": {"optimizer": "Keep"}}},
    {"spec.schedule": {"curve": "Adaptive", "stages": 20, "shots": 3}, "spec.evaluation": {"gate": {"maxDrop": 0.1}}},
    {"spec.schedule": {"curve": "Linear"}, "spec.evaluation": {"gate": {"onFail": "Stop"}}},
    {"spec.data.generate": {}, "spec.training.teacher": {}},
    {"spec.data.generate": {"count": 20, "temperature": 0.7, "multiline": True}, "spec.data.queries": _QUERIES},
    {"spec.training.teacher": {"model": "PreviousStage"}},
    {"spec.training.teacher": {"model": "BestStage", "loss": "JensenShannon", "weight": 0.5}},
    {"spec.training.teacher": {"model": "BestStage"}, "spec.schedule": {"explicit": [_STAGE, _LAST]}},
    {"spec.data.queries": _QUERIES, "spec.training.teacher": {"model": "BestStage", "loss": "Answers"}},
    {
        "spec.data.queries": _QUERIES,
        "spec.training.teacher": {"model": "Base"},
        "spec.training.betweenStages": {"learningRate": "Continue"},
    },
    {"spec.evaluation.retention": {}},
    {"spec.evaluation.retention": {"template": "Translate {query}:", "data": _QUERIES, "maxChanged": 0.5}},
    {"spec.evaluation": {"metrics": ["BLEU"], "arms": ["FullPrompt", "QueryOnly"], "gate": {"onFail": "Stop"}}},
    {"spec.evaluation": {"prices": {"inputPerMillion": 1, "outputPerMillion": 2.5}}},
    {"spec.compute": {"device": "CPU", "workers": 1, "tolerations": [{"key": "gpu", "operator": "Exists"}]}},
    {"spec.compute": {"gpusPerWorker": 1, "resources": {"cpu": "500m", "memory": "32Gi"}, "nodeSelector": {"a": "b"}}},
    {"spec.storage": {"uri": "s3://bucket/runs", "endpoint": "http://127.0.0.1:7070", "secretRef": {"name": "s3"}}},
    {
        "metadata.labels": None,
        "spec.storage": None,
        "spec.training": None,
        "spec.schedule": {"stages": None, "shots": 3},
    },
    {"spec.suspend": True, "spec.activeDeadlineSeconds": 3600, "spec.ttlSecondsAfterFinished": 0},
    {"spec.data": _ONLY_QUERIES},
    {"spec.data": _ONLY_QUERIES, "spec.schedule": {"curve": "Linear"}, "spec.prompt.template": "{query}"},
    {"spec.data": _ONLY_QUERIES, "spec.schedule": {"shots": 0, "stages": 3}},
    {"spec.data": {**_ONLY_QUERIES, "train": None}, "spec.schedule": {"finalRate": 0.1, "stages": None}},
    {"spec.data": _ONLY_QUERIES, "spec.schedule": {"explicit": [{"templateRate": 0.5, "shots": 0}, _LAST]}},
    {"spec.data.queries": _QUERIES},
    {"spec.evaluation.reference": "FullPrompt"},
    {"spec.data.queries": _QUERIES, "spec.training": {"teacher": None}},
    {"spec.data.queries": _QUERIES, "spec.training": {"teacher": {"samples": {}}}},
    {"spec.data.queries": _QUERIES, "spec.training": {"teacher": {"loss": "JensenShannon", "topK": 20}}},
    {"spec.data.queries": _QUERIES, "spec.training": {"teacher": {"loss": "Answers", "weight": 0.5}}},
)
"""Changes to ``small_job`` that leave it valid."""

LARGE_BAD_JOBS: tuple[BadJob, ...] = (
    _bad({"spec.prompt.template": _template(_LARGEST + 1)}, "spec.prompt.template", "at most 262,144 bytes in UTF-8"),
    _bad({"spec.prompt.template": _template(_LARGEST + 1, "€")}, "spec.prompt.template", "at most 262,144 bytes"),
    _bad(
        {
            "spec.prompt.template": _template(131_072),
            "spec.prompt.compressor": {
                "kind": "Precomputed",
                "templates": [{"rate": rate, "template": _template(32_768, "😀")} for rate in (0.8, 0.6, 0.4, 0)],
            },
        },
        "spec.prompt.template",
        "together with exampleTemplate and all compressor.templates",
    ),
)
LARGE_GOOD_CHANGES: tuple[dict[str, Any], ...] = (
    {"spec.prompt.template": _template(_LARGEST)},
    {"spec.prompt.template": _template(_LARGEST, "😀")},
)
"""Changes that `kubectl apply` without --server-side cannot send, because it copies the job into an annotation."""
