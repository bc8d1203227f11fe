"""
The released LION at its full size, with random weights: files of the names, structure, types and sizes that users hold,
and what it takes to convert, load and ask them.

    python -m benchmarks.full_size.make_files --output FOLDER
    python -m benchmarks.full_size.measure --files FOLDER --image PICTURE --output REPORT
"""
