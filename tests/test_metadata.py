"""configs/metadata.json against the Model Zoo's schema."""

import json
from pathlib import Path

import jsonschema

# MONAI's official schema of 2024-07-25, Apache-2.0, byte for byte (md5 06954cad2cc5d3784e72077ac76f0fc8).
SCHEMA = Path(__file__).parent / "resources" / "meta_schema_20240725.json"


def test_metadata_is_valid(bundle_root):
    metadata = json.loads((bundle_root / "configs" / "metadata.json").read_text())
    jsonschema.validate(metadata, json.loads(SCHEMA.read_text()))
    assert metadata["version"] in metadata["changelog"]


def test_monais_own_check_accepts_it(bundle_root, tmp_path):
    from monai.bundle import verify_metadata

    copy = tmp_path / "schema.json"
    copy.write_bytes(SCHEMA.read_bytes())
    verify_metadata(
        meta_file=str(bundle_root / "configs" / "metadata.json"),
        filepath=str(copy),
        hash_val="06954cad2cc5d3784e72077ac76f0fc8",
    )
