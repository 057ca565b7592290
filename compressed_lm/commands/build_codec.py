"""Command `build-codec`: builds a codec from its spec and saves it as a directory."""

from compressed_lm.commands import options, paths
from compressed_lm.commands.command import Command
from compressed_lm.io import locks


def add_arguments(parser):
    from compressed_lm import codecs

    parser.add_argument("codec", help=f"spec of the codec: {', '.join(codecs.examples())}")
    parser.add_path("--out", kind=paths.FOLDER, required=True, help="directory to write")
    parser.add_path("--m1", kind=paths.READ, help="folder of `train-m1`, or pretrained, for codecs that need an M1")
    options.add_corpus(parser)
    parser.add_argument(
        "--max_bytes",
        type=options.count_of_bytes(),
        default=8_000_000,
        help="most bytes of text to learn from (default %(default)s)",
    )


def run(arguments):
    from compressed_lm import codecs
    from compressed_lm.data.job import take_bytes
    from compressed_lm.data.sources import open_corpus
    from compressed_lm.pipelines.build_codec import build
    from compressed_lm.pipelines.m1 import load_m1

    with locks.held(arguments.out):
        spec = codecs.canonical_spec(arguments.codec)
        m1 = load_m1(arguments.m1) if arguments.m1 else None
        corpus = open_corpus(arguments.corpus, validation=arguments.validation)
        codec = build(spec, m1=m1, documents=lambda: take_bytes(corpus.documents("train"), arguments.max_bytes))
        codecs.save(codec, arguments.out)
    print(f"{codec.spec} is in {arguments.out}, fingerprint {codec.fingerprint[:12]}.")


COMMAND = Command(
    "build-codec",
    "build a codec and save it as a directory",
    "compressed-lm build-codec 'eiw(b=16,v=65536)' --m1 runs/m1 --out codecs/eiw16",
    add_arguments,
    run,
    writes=True,
)
