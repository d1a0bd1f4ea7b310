"""Any text as LaTeX in ASCII, which every engine compiles without further packages."""

import re
import unicodedata

_LETTERS = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "%": r"\%", "_": r"\_", "[": "{[}", "*": "{*}",  # [ and * behind the end of a row would belong to it
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "|": r"$|$", "<": "$<$", ">": "$>$",
    "±": r"$\pm$", "−": "$-$", "‖": r"$\|$", "×": r"$\times$", "·": r"$\cdot$", "→": r"$\to$", "∞": r"$\infty$",
    "≤": r"$\le$", "≥": r"$\ge$", "≠": r"$\ne$", "≈": r"$\approx$", "°": r"$^{\circ}$",
    "†": r"$^{\dagger}$", "‡": r"$^{\ddagger}$", "…": r"\dots{}", "–": "--", "—": "---",
    "‘": "`", "’": "'", "“": "``", "”": "''",
    "ß": r"\ss{}", "æ": r"\ae{}", "Æ": r"\AE{}", "œ": r"\oe{}", "Œ": r"\OE{}", "ø": r"\o{}", "Ø": r"\O{}",
    "ł": r"\l{}", "Ł": r"\L{}", "ı": r"\i{}",
}  # fmt: skip
_ACCENTS = dict(
    zip("\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0327", "`'^~=u.\"rHvc", strict=True)
)
"""Combining mark -> the accent command of LaTeX."""
_COMMANDS = """
    alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi chi psi omega
    Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega
""".split()
"""Greek letters that LaTeX has a command for; of capitals, those that Latin has not."""
_GREEK = re.compile(r"GREEK (SMALL|CAPITAL) LETTER ([A-Z]+)")


def escaped_latex(text: str) -> str:
    """The text with special characters escaped; masks, minus signs and Greek letters in maths.

    White space is one space, and a letter that needs a package is its code point, as in {[}U+4E2D].
    """
    text = re.sub(r"(?<!\S)-(?=\d)", "−", " ".join(unicodedata.normalize("NFC", text).split()))
    text = "".join(map(_escaped, text))
    return re.sub(r"\bm\\_([ud])\b", r"$m_\1$", text)


def _escaped(letter: str) -> str:
    if letter in _LETTERS:
        return _LETTERS[letter]
    if letter.isascii() and letter.isprintable():
        return letter
    parts = unicodedata.normalize("NFD", letter)
    if len(parts) == 2 and parts[0].isascii() and parts[1] in _ACCENTS:
        base = rf"\{parts[0]}" if parts[0] in "ij" else parts[0]
        return rf"\{_ACCENTS[parts[1]]}{{{base}}}"
    match = _GREEK.fullmatch(unicodedata.name(letter, ""))
    if match:
        command = match[2].replace("LAMDA", "LAMBDA")
        command = command.lower() if match[1] == "SMALL" else command.title()
        if command in _COMMANDS:
            return rf"$\{command}$"
    return f"{{[}}U+{ord(letter):04X}]"
