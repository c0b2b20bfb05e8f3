"""How tests compile: they compile much and compute little."""

# XLA's emitters of fusions take twice as long as its older ones where nothing is optimized.
QUICK = '--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false'
