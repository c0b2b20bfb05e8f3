"""How tests compile: they compile much and compute little."""

from importlib.metadata import version

QUICK = '--xla_backend_optimization_level=0'
# XLA's emitters of fusions take twice as long as its older ones where nothing is optimized; since
# 0.11 there are no others, and an unknown flag ends the process.
if tuple(map(int, version('jaxlib').split('.')[:2])) < (0, 11):
    QUICK += ' --xla_cpu_use_fusion_emitters=false'
