"""What models of a known data set may be used for, for their cards."""

_USES = {
    "mnist": """\
Reading one handwritten digit in each image. The ink is found, scaled and centred as in MNIST. Images of several digits,
printed digits and letters are outside the training data, and the model names a digit for them, too. The writers were
American census employees and students, in 1992.""",
    "cats-vs-dogs": """\
Telling a cat from a dog in a photo that shows one of them. Other animals, people, drawings and photos of both are
outside the training data, and the model answers `cat` or `dog` for them, too. The photo is resized to a square, so a
small animal in a wide scene has few pixels.""",
    "reviews": """\
Telling whether an English review of a film is positive or negative: one sentence or the complete review. Neutral texts,
other languages and other subjects are outside the training data, and the model answers for them, too. Irony, and words
that the training texts do not contain, mislead it.""",
}
_USES["oxford-pets"] = _USES["cats-vs-dogs"]
_USES |= dict.fromkeys(("imdb", "mr", "sst2"), _USES["reviews"])


def of(dataset: str) -> str:
    """The intended use of models of a data set."""
    return _USES.get(dataset, "Classifying inputs like those of the data set.")
