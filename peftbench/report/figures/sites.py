"""Layer and role of an adapted module, read off its path."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

ROLES = ("query", "key", "value", "attention output", "FFN in", "FFN out")
"""The linear maps of a transformer layer, in the order of its forward pass."""

_ENDS = {
    "query": r"query|query_proj|q_proj|q_lin|q",
    "key": r"key|key_proj|k_proj|k_lin|k",
    "value": r"value|value_proj|v_proj|v_lin|v",
    "attention output": r"attention\.output\.dense|o_proj|out_proj|out_lin|attn\.c_proj|attn\.o|\w*Attention\.o",
    "FFN in": r"intermediate\.dense|fc1|lin1|c_fc|gate_proj|up_proj|wi(_\d+)?",
    "FFN out": r"output\.dense|fc2|lin2|mlp\.c_proj|down_proj|wo",
}
"""How paths end by role. BERT's `attention.output.dense` ends as its `output.dense` does, so it is asked first."""

_CROSS = re.compile(r"(^|\.)(encoder_attn|EncDecAttention|crossattention)\.")


@dataclass(frozen=True)
class Site:
    """One adapted module.

    Attributes:
        path: the module's.
        stack: path of its list of layers.
        layer: index in it, from 0.
        role: one of `ROLES`, with `cross` before it where a decoder attends to an encoder; of an unknown
            architecture the path's last name.
    """

    path: str
    stack: str
    layer: int
    role: str


def parse(paths: Iterable[str]) -> list[Site]:
    """The sites that lie in a layer.

    Several of one layer and role (a gated feed-forward pair) are told apart by their last name; two stacks of layers by
    the name before their roles.
    """
    found = [site for path in paths if (site := _parse(path))]
    several = Counter((site.stack, site.layer, site.role) for site in found)
    stacks = {site.stack for site in found}
    return [_named(site, several[site.stack, site.layer, site.role] > 1, len(stacks) > 1) for site in found]


def _parse(path: str) -> Site | None:
    # The first index is the layer's: T5 numbers the parts inside a layer too.
    match = re.match(r"(.*?)\.(\d+)\.(.+)$", path)
    if match is None:
        return None
    inside = match[3]
    role = next((role for role, ends in _ENDS.items() if re.search(rf"(^|\.)({ends})$", inside)), None)
    role = role or inside.rpartition(".")[2]
    return Site(path, match[1], int(match[2]), f"cross {role}" if _CROSS.search(inside) else role)


def _named(site: Site, several: bool, stacks: bool) -> Site:
    role = f"{site.role} ({site.path.rpartition('.')[2]})" if several else site.role
    if stacks:
        role = f"{'decoder' if 'decoder' in site.stack else 'encoder'} {role}"
    return replace(site, role=role)


def role_order(role: str) -> tuple[bool, bool, int, str]:
    """Sorts roles: encoder before decoder, self before cross attention, then in the order of the forward pass."""
    place = next((i for i, known in enumerate(ROLES) if known in role), len(ROLES))
    return "decoder" in role, "cross" in role, place, role


def thirds(sites: Iterable[Site]) -> dict[str, str]:
    """`shallow`, `middle` or `deep` by path: layer i of L, from 0, lies in third ⌊3i/L⌋ of its stack."""
    found = list(sites)
    ordered = {stack: sorted({s.layer for s in found if s.stack == stack}) for stack in {s.stack for s in found}}
    names = ("shallow", "middle", "deep")
    return {s.path: names[3 * ordered[s.stack].index(s.layer) // len(ordered[s.stack])] for s in found}
