"""spec.compute.tolerations and spec.compute.affinity: where pods may run, with the fields of a pod's spec.

The schema of the affinity is written out in full, because a field without a schema could nest deeper than a client can
parse.
"""

from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from promptintern_api.base import ApiModel, Rule

LabelKey = Annotated[str, StringConstraints(min_length=1, max_length=317)]
LabelValue = Annotated[str, StringConstraints(max_length=63)]
NamespaceName = Annotated[str, StringConstraints(min_length=1, max_length=63)]

_VALUES = Rule(
    field="values",
    message="must be set for operators In and NotIn, and left out for Exists and DoesNotExist",
    cel=(
        "!(self.operator in ['In', 'NotIn', 'Exists', 'DoesNotExist']) || "
        "(has(self.values) && self.values.size() > 0) == (self.operator in ['In', 'NotIn'])"
    ),
    holds=lambda self: (
        self.operator not in ("In", "NotIn", "Exists", "DoesNotExist")
        or bool(self.values) == (self.operator in ("In", "NotIn"))
    ),
)


class Toleration(ApiModel):
    """A toleration of a taint, as in a pod's spec."""

    key: Annotated[
        str | None,
        Field(
            max_length=317,
            description=(
                "Key of the taint. If it is left out, `operator` must be Exists, and the toleration matches every key."
            ),
        ),
    ] = None
    operator: Annotated[
        str | None,
        StringConstraints(pattern=r"^(Exists|Equal)$", max_length=6),
        Field(
            description=(
                "Relation of the key to the value: Exists matches every value, Equal matches `value` only. If it is "
                "left out, Kubernetes assumes Equal."
            )
        ),
    ] = None
    value: Annotated[
        str | None,
        Field(
            max_length=63,
            description="Value of the taint, for operator Equal. It must be left out if `operator` is Exists.",
        ),
    ] = None
    effect: Annotated[
        str | None,
        StringConstraints(pattern=r"^(NoSchedule|PreferNoSchedule|NoExecute)$", max_length=16),
        Field(
            description=(
                "Effect of the taint: NoSchedule, PreferNoSchedule or NoExecute. If it is left out, the toleration "
                "matches every effect."
            )
        ),
    ] = None
    toleration_seconds: Annotated[
        int | None,
        Field(
            ge=0,
            description=(
                "Seconds for which a taint with effect NoExecute is tolerated. If it is left out, the taint is "
                "tolerated without a limit."
            ),
        ),
    ] = None

    # The API server checks these rules for pods, but not for the pod templates of a RayJob.
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="operator",
            message="must be Exists if key is left out",
            cel="(has(self.key) && self.key != '') || (has(self.operator) && self.operator == 'Exists')",
            holds=lambda self: bool(self.key) or self.operator == "Exists",
        ),
        Rule(
            field="value",
            message="must be left out if operator is Exists",
            cel="!has(self.value) || self.value == '' || !has(self.operator) || self.operator != 'Exists'",
            holds=lambda self: not self.value or self.operator != "Exists",
        ),
        Rule(
            field="effect",
            message="must be NoExecute if tolerationSeconds is set",
            cel="!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            holds=lambda self: self.toleration_seconds is None or self.effect == "NoExecute",
        ),
    )


class LabelSelectorRequirement(ApiModel):
    """A requirement on one label of a pod or a namespace."""

    key: Annotated[LabelKey, Field(description="Key of the label.")]
    operator: Annotated[
        str,
        StringConstraints(pattern=r"^(In|NotIn|Exists|DoesNotExist)$", max_length=16),
        Field(description="Relation of the label to the values: In, NotIn, Exists or DoesNotExist."),
    ]
    values: Annotated[
        list[LabelValue] | None,
        Field(
            max_length=64,
            description="Values of the label. They are required for In and NotIn, and must be left out otherwise.",
        ),
    ] = None

    rules: ClassVar[tuple[Rule, ...]] = (_VALUES,)


class NodeSelectorRequirement(ApiModel):
    """A requirement on one label or field of a node."""

    key: Annotated[LabelKey, Field(description="Key of the label, or name of the field.")]
    operator: Annotated[
        str,
        StringConstraints(pattern=r"^(In|NotIn|Exists|DoesNotExist|Gt|Lt)$", max_length=16),
        Field(description="Relation of the label to the values: In, NotIn, Exists, DoesNotExist, Gt or Lt."),
    ]
    values: Annotated[
        list[LabelValue] | None,
        Field(
            max_length=64,
            description=(
                "Values of the label. They are required for In and NotIn, must be left out for Exists and "
                "DoesNotExist, and must be one integer for Gt and Lt."
            ),
        ),
    ] = None

    rules: ClassVar[tuple[Rule, ...]] = (
        _VALUES,
        Rule(
            field="values",
            message="must be one integer for operators Gt and Lt",
            cel=(
                "!(self.operator in ['Gt', 'Lt']) || "
                "(has(self.values) && self.values.size() == 1 && self.values[0].matches('^-?[0-9]+$'))"
            ),
            holds=lambda self: (
                self.operator not in ("Gt", "Lt")
                or (self.values is not None and len(self.values) == 1 and _is_integer(self.values[0]))
            ),
        ),
    )


class NodeSelectorTerm(ApiModel):
    """A set of requirements on a node, all of which must hold."""

    match_expressions: Annotated[
        list[NodeSelectorRequirement] | None, Field(max_length=32, description="Requirements on the node's labels.")
    ] = None
    match_fields: Annotated[
        list[NodeSelectorRequirement] | None,
        Field(max_length=32, description="Requirements on the node's fields, such as metadata.name."),
    ] = None


class NodeSelector(ApiModel):
    """A set of terms, at least one of which must hold for a node."""

    node_selector_terms: Annotated[
        list[NodeSelectorTerm], Field(min_length=1, max_length=32, description="Terms, of which one must hold.")
    ]


class PreferredSchedulingTerm(ApiModel):
    """A term that the scheduler prefers nodes to fulfil."""

    weight: Annotated[int, Field(ge=1, le=100, description="Weight of the term among the preferred terms.")]
    preference: Annotated[NodeSelectorTerm, Field(description="Term that a preferred node fulfils.")]


class NodeAffinity(ApiModel):
    """Rules about the nodes that a pod may run on."""

    required_during_scheduling_ignored_during_execution: Annotated[
        NodeSelector | None, Field(description="Terms, of which a node must fulfil one.")
    ] = None
    preferred_during_scheduling_ignored_during_execution: Annotated[
        list[PreferredSchedulingTerm] | None, Field(max_length=32, description="Terms that nodes should fulfil.")
    ] = None


class LabelSelector(ApiModel):
    """A selector of objects by their labels. All of its requirements must hold."""

    match_labels: Annotated[
        dict[str, LabelValue] | None, Field(max_length=32, description="Labels, each with the value that it must have.")
    ] = None
    match_expressions: Annotated[
        list[LabelSelectorRequirement] | None, Field(max_length=32, description="Requirements on labels.")
    ] = None


class PodAffinityTerm(ApiModel):
    """The pods near which a pod is placed, or from which it is kept away."""

    label_selector: Annotated[LabelSelector | None, Field(description="Selector of the pods by their labels.")] = None
    namespaces: Annotated[
        list[NamespaceName] | None,
        Field(
            max_length=32,
            description=(
                "Namespaces of the pods. If both this field and `namespaceSelector` are left out, the pods are those "
                "of the job's own namespace."
            ),
        ),
    ] = None
    namespace_selector: Annotated[
        LabelSelector | None, Field(description="Selector of the pods' namespaces by their labels.")
    ] = None
    topology_key: Annotated[
        LabelKey, Field(description="Label of nodes. Nodes with the same value of this label count as one place.")
    ]
    match_label_keys: Annotated[
        list[LabelKey] | None,
        Field(max_length=32, description="Keys of labels that must have the same value as on the pod itself."),
    ] = None
    mismatch_label_keys: Annotated[
        list[LabelKey] | None,
        Field(max_length=32, description="Keys of labels that must have another value than on the pod itself."),
    ] = None


class WeightedPodAffinityTerm(ApiModel):
    """A term about other pods that the scheduler prefers to fulfil."""

    weight: Annotated[int, Field(ge=1, le=100, description="Weight of the term among the preferred terms.")]
    pod_affinity_term: Annotated[PodAffinityTerm, Field(description="Term that a preferred node fulfils.")]


class PodAffinity(ApiModel):
    """Rules that place a pod near other pods, or keep it away from them."""

    required_during_scheduling_ignored_during_execution: Annotated[
        list[PodAffinityTerm] | None, Field(max_length=32, description="Terms that must all hold.")
    ] = None
    preferred_during_scheduling_ignored_during_execution: Annotated[
        list[WeightedPodAffinityTerm] | None, Field(max_length=32, description="Terms that should hold.")
    ] = None


class Affinity(ApiModel):
    """The scheduling constraints of the worker pods, in the format of a pod's `spec.affinity`."""

    node_affinity: Annotated[
        NodeAffinity | None,
        Field(description="Rules about the nodes that the pods may run on. If it is left out, any node will do."),
    ] = None
    pod_affinity: Annotated[
        PodAffinity | None,
        Field(description="Rules that place the pods near other pods. If it is left out, there are none."),
    ] = None
    pod_anti_affinity: Annotated[
        PodAffinity | None,
        Field(description="Rules that keep the pods away from other pods. If it is left out, there are none."),
    ] = None


def _is_integer(text: str) -> bool:
    digits = text.removeprefix("-")
    return digits.isascii() and digits.isdigit()
