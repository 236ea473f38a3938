"""What plain diffusers draws from a folder, in a process of its own where hfgen cannot be imported."""

import json

import numpy as np
import torch

SEEDS = [0, 7]
# class, keywords of the call -> images
PLAIN = f"""
import sys
sys.modules.update(dict.fromkeys(["hfgen", "hfgen_diffusion"]))  # an import of either fails
import json, numpy as np, torch, diffusers
folder, out, calls = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
for name, (class_name, options) in calls.items():
    pipeline = getattr(diffusers, class_name).from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in {SEEDS}]
    images = pipeline(batch_size=2, generator=generators, output_type="np", **options).images
    np.save(f"{{out}}/{{name}}.npy", images)
    print(name, type(pipeline).__module__.partition(".")[0], type(pipeline).__name__)
"""


def in_plain_diffusers(process, folder, out, **calls):
    """Name -> images of `SEEDS` by a class of diffusers and keywords of its call."""
    done = process.run(PLAIN, folder, out, json.dumps(calls))
    assert done.returncode == 0, done.stderr
    assert {line.split()[1] for line in done.stdout.splitlines()} == {"diffusers"}
    return {name: np.load(out / f"{name}.npy") for name in calls}


def plainly_drawn(pipeline, **options):
    """The same of a pipeline of diffusers' in this process."""
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    return pipeline(batch_size=2, generator=generators, output_type="np", **options).images
