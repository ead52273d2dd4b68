"""A folder of image files as a data set: one sub-folder per class."""

import os

from keras_mixer.data.splits import Source, file_split, stratified_split

# The formats of tf.io.decode_image; WebP from TensorFlow 2.20.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")


def image_folder_source(folder, train_split, test_split, test_fraction, seed):
    """`DIR/train/CLASS/*.jpg` and `DIR/test/CLASS/*.jpg`, or `DIR/CLASS/*.jpg` split by `test_fraction` and `seed`.

    Raises:
        ValueError: the folder does not have this structure, or a class has no images.
    """
    parts = [folder / train_split, folder / test_split]
    present = [part.is_dir() for part in parts]
    if any(present) and not all(present):
        missing = parts[present.index(False)]
        raise ValueError(
            f"Image folder {folder} has {parts[present.index(True)].name!r} but no {missing.name!r} next to it. Add "
            f"{missing}, or put the class folders directly into {folder} to have them split."
        )
    if all(present):
        class_names = _class_folders(parts[0])
        unknown = sorted(set(_class_folders(parts[1])) - set(class_names))
        if unknown:
            raise ValueError(f"{parts[1]} has classes that {parts[0]} lacks: {', '.join(unknown)}.")
        train, test = (_labelled_files(part, class_names) for part in parts)
    else:
        class_names = _class_folders(folder)
        files, labels = _labelled_files(folder, class_names)
        sides = stratified_split(labels, test_fraction, seed)
        train, test = (([files[i] for i in side], [labels[i] for i in side]) for side in sides)
    return Source(folder.resolve().name, tuple(class_names), file_split(*train), file_split(*test))


def _class_folders(folder):
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(names) < 2:
        found = f"only one ({names[0]})" if names else "none"
        raise ValueError(
            f"Image folder {folder} must contain two or more class folders with images; it contains {found}. "
            f"Expected {folder}/CLASS/*.jpg or {folder}/train/CLASS/*.jpg with {folder}/test/CLASS/*.jpg."
        )
    return names


def _labelled_files(folder, class_names):
    files, labels = [], []
    for label, name in enumerate(class_names):
        if not (folder / name).is_dir():
            continue  # a test split may lack a class
        found = sorted(
            (
                os.path.join(parent, file)
                for parent, _, names in os.walk(folder / name)
                for file in names
                if file.lower().endswith(IMAGE_SUFFIXES) and not file.startswith(".")
            ),
            key=lambda path: path.split(os.sep),
        )
        if not found:
            raise ValueError(f"Class folder {folder / name} contains no images ({', '.join(IMAGE_SUFFIXES)}).")
        files += found
        labels += [label] * len(found)
    return files, labels
