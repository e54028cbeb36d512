"""Writes Parquet and Arrow files as `datasets` makes them, for arrow_test: make_arrow.py FOLDER PNG."""
import sys

import pyarrow as pa
import pyarrow.parquet as pq

folder, png_path = sys.argv[1:]
png = open(png_path, "rb").read()
messages = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
rows = {
    "messages": pa.array(
        [[{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": f"a{i}"}] for i in range(150)],
        messages),
    "images": pa.array([[{"bytes": png, "path": None}] if i % 50 == 0 else [] for i in range(150)], pa.list_(image)),
    "n": pa.array([None if i == 3 else i for i in range(150)], pa.int32()),
    "kind": pa.array(["x" if i % 2 else "y" for i in range(150)]).dictionary_encode(),
    "scores": pa.array([[i / 2, 1.0] for i in range(150)], pa.list_(pa.float32())),
    "when": pa.array([i for i in range(150)], pa.timestamp("s")),
}
table = pa.table(rows)
for codec in ("snappy", "zstd", "gzip", "none"):
    pq.write_table(table, f"{folder}/{codec}.parquet", compression=codec, row_group_size=40)
with pa.OSFile(f"{folder}/file.arrow", "wb") as out, pa.ipc.new_file(out, table.schema) as writer:
    writer.write_table(table, max_chunksize=64)
with pa.OSFile(f"{folder}/stream.arrow", "wb") as out, pa.ipc.new_stream(out, table.schema) as writer:
    writer.write_table(table, max_chunksize=64)
