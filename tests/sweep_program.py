"""A sweep in a process of its own, for tests of devices, of several processes, and of what survives a kill.

`python sweep_program.py OUT key=value …` trains a fixed grid and saves its table and parameters to OUT (.npz).
"""

import sys
import time

import jax
import numpy as np

GRID = [
    {"activation": ["tanh", "relu"], "hidden": [(2,), (3,), (5,)], "learning_rate": [0.1, 0.5], "seed": [0, 1]},
    {"hidden": [(4, 3)], "optimizer": ["adam"], "batch_size": [16], "learning_rate": [0.01], "seed": [0, 1, 2]},
]


def main(out: str, options: dict[str, str]) -> None:
    import jaxbackprop as jb
    from jaxbackprop import data
    from jaxbackprop.sweeps import host

    if jb.join_hosts() == 1:
        jb.use_all_cores(int(options.get("devices", 1)))
    if "slow" in options:  # so that a kill from outside finds it at work
        call = host._call

        def slowly(*args, **kwargs):
            time.sleep(float(options["slow"]))
            return call(*args, **kwargs)

        host._call = slowly
    moons = data.load("moons", samples=60)
    chosen = {name: int(options[name]) for name in ("patience", "halving") if name in options}
    result = jb.sweep(
        GRID,
        moons.X,
        moons.y,
        epochs=int(options.get("epochs", 40)),
        record_every=4,
        checkpoint=options.get("checkpoint"),
        checkpoint_every=0.0,
        progress=False,
        **chosen,
    )
    leaves = [leaf for trial in range(len(result.trials)) for leaf in jax.tree.leaves(result.params(trial))]
    numbers = result.table[["train_loss", "validation_loss", "epochs"]].to_numpy(float)
    if jax.process_index() == 0:
        np.savez(out, *leaves, table=numbers, curves=result.train_loss, devices=len(jax.devices()))
    print("done", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], dict(argument.split("=", 1) for argument in sys.argv[2:]))
