"""The command of an evaluation, which is `fi_jax.main --mode=eval`; see `evaluation.protocol`.

python -m fi_jax.evaluate --config=configs/stage2.py:res=64 --checkpoint=runs/s2
python -m fi_jax.evaluate --samples_dir=DIR --truth_dir=DIR --holes_dir=DIR --workdir=OUT
python -m fi_jax.evaluate --compare runs/a runs/b
"""

from fi_jax.main import console

if __name__ == '__main__':
    console('eval')
