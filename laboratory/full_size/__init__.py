"""
The released LION at its full size, with random weights: files of the names, structure, types and sizes that users hold,
and what it takes to convert, load and ask them.

    python -m laboratory.full_size.make_files --output FOLDER
    python -m laboratory.full_size.measure --files FOLDER --image PICTURE --output REPORT
"""
