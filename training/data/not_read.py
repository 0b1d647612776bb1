"""Files that hold data in a form that is not read, and what to do with each."""

from pathlib import Path

_ADVICE = {
    "a spreadsheet; save the sheet as CSV (UTF-8)": {".xlsx", ".xls", ".xlsm", ".ods", ".numbers"},
    "an archive; unpack the archive first, then give the folder or the table that was in it": {
        ".zip", ".tar", ".tgz", ".7z", ".rar", ".bz2", ".xz", ".gz"},
    "an array of NumPy; save each image as a PNG in a folder for its label, such as with "
    "PIL.Image.fromarray(array).save(path)": {".npy", ".npz"},
    "a pickle, which can run any program when it is opened; save the table as CSV or Parquet, such as with "
    "DataFrame.to_parquet(path)": {".pkl", ".pickle", ".joblib"},
    "a file of HDF5 or MATLAB; save each image as a PNG in a folder for its label, or the texts as CSV": {
        ".h5", ".hdf5", ".mat"},
    "a file of TensorFlow; save each image as a PNG in a folder for its label, or the texts as CSV": {
        ".tfrecord", ".tfrecords"},
    "a table of Arrow; save it as Parquet, such as with datasets.load_from_disk(folder).to_parquet(path)": {
        ".arrow", ".feather"},
    "a database; export the table as CSV (UTF-8)": {".db", ".sqlite", ".sqlite3"},
    "a document; save each as a text file (.txt) in a folder for its label, or all as a table": {".pdf", ".docx"},
    "a video; save its frames as images in a folder for its label": {".mp4", ".avi", ".mov", ".mkv"},
    "a sound; expected images or texts": {".wav", ".mp3", ".flac", ".ogg"},
    "a part of MNIST's format; save each image as a PNG in a folder for its label": {"-ubyte"},
}  # fmt: skip
_BY_SUFFIX = {suffix: advice for advice, suffixes in _ADVICE.items() for suffix in suffixes}


def advice(path: Path) -> str:
    """What a file is and what to do, by its name; "" if nothing is known."""
    name = path.name.lower()
    if "-ubyte" in name:
        return _BY_SUFFIX["-ubyte"]
    for suffix in (path.suffix.lower(), path.with_suffix("").suffix.lower()):
        if suffix in _BY_SUFFIX and (suffix != ".gz" or name.count(".") == 1):
            return _BY_SUFFIX[suffix]
    return ""
