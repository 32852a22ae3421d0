# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""For the Model Zoo's ci/unit_tests: every stage of the bundle on built-in patches, each on what the former ones left.

Run from the root of the Zoo, where the bundle is models/histodiffusion, by ci/unit_tests/runner.py --b histodiffusion.
"""

import os
import shutil
import tempfile
import unittest

from monai.bundle import ConfigWorkflow
from parameterized import parameterized
from utils import check_workflow

BUNDLE_ROOT = "models/histodiffusion"
LABELLED = {"patch_size": 32, "generated_per_class": 10}
PRETRAIN = {
    "patch_size": 32,
    "generated_per_class": 2,
    "generated_slides": 3,
    "autoencoder_steps": 2,
    "autoencoder_batch_size": 4,
    "autoencoder_channels": [16, 16],
    "norm_groups": 8,
    "autoencoder_loss#adversarial_start": 1,
    "diffusion_steps": 2,
    "diffusion_batch_size": 4,
    "diffusion_channels": [32, 32],
    "diffusion_architecture#attention_levels": [False, True],
    "num_inference_steps": 2,
}
ADAPT = {
    "generated_per_class": 10,
    "labels_per_class": 4,
    "latents#stain_copies": 0,
    "image_classifier_steps": 2,
    "image_classifier#trainer#batch_size": 4,
    "image_classifier#architecture#extra_channels": [32],
    "judge_steps": 2,
    "judge#trainer#batch_size": 4,
    "judge#architecture#block_inplanes": [8, 8, 8, 8],
    "decoder_steps": 2,
    "decoder#trainer#batch_size": 4,
    "latent_classifier_steps": 2,
    "train#trainer#batch_size": 4,
    "half_unet#channels": [32, 32],
    "half_unet#attention_levels": [False, True],
}
INFER = {"num_images": 4, "num_inference_steps": 2, "inference_batch_size": 16}
SELECT = {
    **LABELLED,
    "scorer_steps": 2,
    "train#trainer#batch_size": 4,
    "residual_network#block_inplanes": [8, 8, 8, 8],
    "folds": 2,
    "ratios": [50],
    "maximum_rounds": 0,
    # After two steps a scorer is sure of nothing: what is tried is the way, not the choice.
    "gates": "distance",
}
CLASSIFY = {
    **LABELLED,
    "trunk_arguments": {"patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2},
    "classifier_steps": 2,
    "train#trainer#batch_size": 4,
}
EVALUATE = {**LABELLED, "draws": 5, "frechet_draws": 2}
STUDY = {
    "patch_size": 32,
    "study#data#generated_per_class": 10,
    "classifier_steps": 2,
    "seeds": 1,
    "rows": "colour_histogram",
    "variants": "plain",
}

STYLEGAN2 = {
    **LABELLED,
    "labels_per_class": 4,
    "channels": [8, 8, 8, 4],
    "train#generator#latent_channels": 8,
    "train#generator#style_channels": 8,
    "train#generator#mapping_layers": 2,
    "stylegan2_steps": 2,
    "stylegan2_batch_size": 4,
}
VIT_CGAN = {
    **LABELLED,
    "labels_per_class": 4,
    "train#generator#dimensions": [16, 8],
    "train#generator#depths": [1, 1],
    "train#generator#heads": [2, 2],
    "train#discriminator#dimension": 16,
    "train#discriminator#depth": 1,
    "train#discriminator#heads": 2,
    "vit_cgan_steps": 2,
    "vit_cgan_batch_size": 4,
}

# The workflow type, the config, its settings, and which of them are folders of earlier stages.
STAGES = [
    ["train", "pretrain", PRETRAIN, {}],
    ["train", "adapt", ADAPT, {"pretrained_dir": "pretrain"}],
    ["infer", "inference", INFER, {"adapted_dir": "adapt"}],
    ["train", "select", SELECT, {"pool_dir": "inference/pool", "split_file": "adapt/split.csv"}],
    ["train", "classify", CLASSIFY, {"split_file": "adapt/split.csv"}],
    ["infer", "evaluate", EVALUATE, {"pool_dir": "inference/pool", "adapted_dir": "adapt"}],
    [None, "study", STUDY, {"adapted_dir": "adapt", "pretrained_dir": "pretrain"}],
    ["train", "stylegan2", STYLEGAN2, {}],
    ["infer", "baseline_inference", {"baseline": "stylegan2", "num_images": 2}, {"baseline_dir": "stylegan2"}],
    ["train", "vit_cgan", VIT_CGAN, {}],
]


class TestHistoDiffusion(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.output_dir = tempfile.mkdtemp()

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.output_dir)

    @parameterized.expand([[f"{number}_{stage[1]}", *stage] for number, stage in enumerate(STAGES)])
    def test_stage(self, _, workflow_type, config, settings, places):
        folders = {name: os.path.join(self.output_dir, place) for name, place in places.items()}
        workflow = ConfigWorkflow(
            workflow_type=workflow_type,
            config_file=os.path.join(BUNDLE_ROOT, f"configs/{config}.json"),
            logging_file=os.path.join(BUNDLE_ROOT, "configs/logging.conf"),
            meta_file=os.path.join(BUNDLE_ROOT, "configs/metadata.json"),
            bundle_root=BUNDLE_ROOT,
            output_dir=os.path.join(self.output_dir, config),
            **settings,
            **folders,
        )
        check_workflow(workflow, check_properties=True)
        self.assertTrue(os.path.isfile(os.path.join(self.output_dir, config, "config.json")))


if __name__ == "__main__":
    unittest.main()
