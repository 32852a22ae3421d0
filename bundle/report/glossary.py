"""Words of a report that a colleague may not know: told on hover where they stand, and in a list at the end."""

from __future__ import annotations

import re

from markupsafe import Markup, escape

TERMS = {
    "agreement": "The share of images in which the judge, a classifier of its own, sees the class that was asked for.",
    "copy": "A synthetic image much nearer to one training image than to all others. A test flags them; people decide.",
    "coverage": "The share of real images that have a synthetic one near them: how much of the variety is there.",
    "floor": "The same figure of other real images. What real images can't reach among themselves, none need reach.",
    "Fréchet distance": "How far two sets of images are apart in mean and spread of their features; 0 is alike.",
    "guidance": "Steering the sampling towards a class by a classifier. Too much of it makes images too alike.",
    "interval": "Holds the true figure in 95 of 100 such measurements on other images of these slides, not other ones.",
    "judge": "A classifier trained on labelled images that nothing else learned from, in colour and in grey.",
    "kernel distance": "How far two sets are apart in their features, without assuming a shape; 0 is alike. Also KID.",
    "precision": "The share of synthetic images that lie among real ones: how many look real to the features.",
    "recall": "The share of real images that lie among synthetic ones: how much of the real variety is reached.",
    "reference": "The real images that the synthetic ones are compared with.",
    "selection": "Choosing, of many images made, those that a trained scorer and fixed rules keep.",
    "study": "Classifiers trained with and without the images, compared on held-out slides.",
}
ALSO = {"copies": "copy", "intervals": "interval", "floors": "floor", "KID": "kernel distance"}
_OF_TERM = {name.lower(): name for name in TERMS} | {name.lower(): term for name, term in ALSO.items()}
_FOUND = re.compile(rf"\b({'|'.join(sorted(map(re.escape, _OF_TERM), key=len, reverse=True))})\b", re.IGNORECASE)


def glossed(text: str) -> Markup:
    """A text with each of the words linked to its explanation, where it first stands; the rest is escaped."""
    told: set[str] = set()
    parts = []
    for number, part in enumerate(_FOUND.split(text)):
        term = _OF_TERM[part.lower()] if number % 2 else ""
        if term and term not in told:
            told.add(term)
            link = Markup('<a class="term" href="#{}" title="{}">{}</a>')
            parts.append(link.format(term_anchor(term), TERMS[term], part))
        else:
            parts.append(escape(part))
    return Markup("").join(parts)


def term_anchor(term: str) -> str:
    """The id of a word's explanation."""
    return "term-" + "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in term)
