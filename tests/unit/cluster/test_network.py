"""The iptables rules that are removed with a cluster."""

from tests.cluster.network import rules_to_remove

SAVED = """\
*nat
:PREROUTING ACCEPT [0:0]
:MINE - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-X - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A PREROUTING -j MINE
-A KUBE-SERVICES -d 10.214.0.1/32 -j KUBE-SVC-X
COMMIT
*filter
:FORWARD ACCEPT [0:0]
:KUBE-FORWARD - [0:0]
-A FORWARD -j KUBE-FORWARD
COMMIT
"""


def test_jumps_are_removed_before_rules_and_rules_before_chains() -> None:
    assert rules_to_remove(SAVED) == [
        [
            "-t",
            "nat",
            "-D",
            "PREROUTING",
            "-m",
            "comment",
            "--comment",
            "kubernetes service portals",
            "-j",
            "KUBE-SERVICES",
        ],
        ["-t", "filter", "-D", "FORWARD", "-j", "KUBE-FORWARD"],
        ["-t", "nat", "-F", "KUBE-SERVICES"],
        ["-t", "nat", "-F", "KUBE-SVC-X"],
        ["-t", "filter", "-F", "KUBE-FORWARD"],
        ["-t", "nat", "-X", "KUBE-SERVICES"],
        ["-t", "nat", "-X", "KUBE-SVC-X"],
        ["-t", "filter", "-X", "KUBE-FORWARD"],
    ]


def test_other_rules_are_not_touched() -> None:
    assert not any("MINE" in command for command in rules_to_remove(SAVED))
    assert rules_to_remove("") == []
