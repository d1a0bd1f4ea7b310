"""Compute once what the runs of a sweep need of the frozen reference."""

from sparsepo.data.records import Preference, read_records
from sparsepo.models.loading import load_model, load_tokenizer
from sparsepo.runtime.entry_point import run_main
from sparsepo.training.batching import encode_usable_pairs
from sparsepo.training.reference_cache import content_hash, write_cache
from sparsepo.workflow.script_options import stage_parser
from sparsepo.workflow.settings import CacheReferenceSettings


def main() -> None:
    options = stage_parser(__doc__, CacheReferenceSettings, "reference pairs kind out").parse_args()
    config = options.settings.training
    reference = load_model(options.reference, **options.settings.loading)
    records = read_records(options.pairs, Preference)
    encoded = encode_usable_pairs(load_tokenizer(options.reference), records, config, reference)
    identity = content_hash(options.reference, records, config)
    write_cache(reference, encoded.pairs, options.kind, config, options.out, identity)


if __name__ == "__main__":
    run_main(main)
