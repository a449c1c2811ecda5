"""`python -m bench.peak_of_writing FILE COMPRESSION MEGABYTES`: writes from a reader and prints how far memory grew."""

import json
import sys
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

import aljava
from bench.harness import peak_memory


def main() -> None:
    """Batches of 16 MB, each made when it is asked for."""
    path, compression, megabytes = sys.argv[1], sys.argv[2], int(sys.argv[3])
    schema = pa.schema([("id", pa.int64()), ("value", pa.float64())])
    rng = np.random.default_rng(7)

    def batches() -> Iterator[pa.RecordBatch]:
        for start in range(0, megabytes * 1_000_000 // 16, 1_000_000):
            yield pa.record_batch([np.arange(start, start + 1_000_000), rng.standard_normal(1_000_000)], schema=schema)

    for batch in batches():  # the reader's own memory, before we look
        aljava.write(batch, path, compression=compression)
        break
    with peak_memory() as grown:
        written = aljava.write(pa.RecordBatchReader.from_batches(schema, batches()), path, compression=compression)
    print(json.dumps({**grown, "rows": written.rows}))


if __name__ == "__main__":
    main()
