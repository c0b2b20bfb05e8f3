"""Draws the picture of docs/architecture.md from the imports of the code: python docs/layers.py

A line imports from the lines below it alone; what imports each other stands together, with '+'.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / 'docs' / 'architecture.md'
MARKS = re.compile(r'(?<=<!-- layers -->\n```\n).*?(?=```\n<!-- end -->)', re.DOTALL)


def parts(root: Path = ROOT) -> dict[str, set[str]]:
    """Each module or folder of fi_jax -> those that it imports from."""
    graph: dict[str, set[str]] = {}
    for file in (root / 'fi_jax').rglob('*.py'):
        name = file.relative_to(root / 'fi_jax').parts[0].removesuffix('.py')
        below = graph.setdefault(name, set())
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                below |= {a.name.split('.')[1] for a in node.names if a.name.startswith('fi_jax.')}
            elif isinstance(node, ast.ImportFrom) and (node.module or '').startswith('fi_jax.'):
                below.add(str(node.module).split('.')[1])
            elif isinstance(node, ast.ImportFrom) and node.module == 'fi_jax':
                below |= {alias.name for alias in node.names}
    graph.pop('__init__', None)
    return {name: (below & graph.keys()) - {name} for name, below in graph.items()}


def layers(graph: dict[str, set[str]]) -> list[list[str]]:
    """From the top: names that import from lower layers alone."""
    reach = {name: _below(name, graph) for name in graph}
    groups = {
        name: frozenset({name} | {n for n in reach[name] if name in reach[n]}) for name in graph
    }
    height: dict[frozenset[str], int] = {}

    def measured(group: frozenset[str]) -> int:
        if group not in height:
            below = {groups[n] for name in group for n in graph[name]} - {group}
            height[group] = 1 + max(map(measured, below), default=-1)
        return height[group]

    top = max(map(measured, groups.values()))
    rows = [{g for g in height if height[g] == level} for level in range(top, -1, -1)]
    return [sorted(' + '.join(sorted(group)) for group in row) for row in rows]


def _below(name: str, graph: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    left = [name]
    while left:
        new = graph[left.pop()] - found
        found |= new
        left += new
    return found


def picture() -> str:
    """The layers, a line each."""
    return ''.join(f'    {"   ".join(row)}\n' for row in layers(parts()))


if __name__ == '__main__':
    PAGE.write_text(MARKS.sub(picture(), PAGE.read_text()))
    print(picture(), end='')
