"""Macros of a LaTeX source expanded: own commands and environments, in the place where their definitions hold.

Definitions by \\newcommand, \\def, \\let, \\DeclareMathOperator, \\newenvironment and \\newtheorem; branches of
\\iffalse and of switches by \\newif. Left as they are: delimited arguments, and definitions with TeX programming in them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_NESTING = 60
"""Macros within macros."""
MAX_EXPANSIONS = 200_000
MAX_ARGUMENT = 50_000
"""Characters of one argument."""
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_STOP = re.compile(r"\\([A-Za-z@]+|.)", re.DOTALL)
_NAME = re.compile(r"\s*(?:\{\s*\\([A-Za-z@]+|.)\s*\}|\\([A-Za-z@]+|[^A-Za-z]))")
_COUNT = re.compile(r"\s*\[\s*(\d)\s*\]")
_DEFAULT = re.compile(r"\s*\[([^\]]*)\]")
_PARAMETERS = re.compile(r"((?:#\d)*)\s*(?=\{)")
_LET = re.compile(r"\s*\\([A-Za-z@]+)\s*=?\s*(\\[A-Za-z@]+|[^\\\s])")
_ENVIRONMENT = re.compile(r"\{([^{}\\\n]+)\}")
_HASH = re.compile(r"#(\d)")
_COMMANDS = {"newcommand", "renewcommand", "providecommand", "DeclareRobustCommand", "newrobustcmd"}
_DEFS = {"def", "gdef", "edef", "xdef"}
_PROGRAMMING = re.compile(r"\\(?:@[a-zA-Z]|expandafter|csname|futurelet|ifx|ifnum|def|let|noexpand|the\b)")
_MODE = re.compile(r"\\ifmmode(?![A-Za-z])\s*(.*?)\s*\\else(?![A-Za-z]).*?\\fi(?![A-Za-z])", re.DOTALL)
_LAST_NAME = re.compile(r"\\[A-Za-z]+\Z")
_ZERO = re.compile(r"\s*0(?!\d)\s*1?(?!\d)")
_PAIR = re.compile(r"\s*\\([A-Za-z@]+)\s*\\([A-Za-z@]+)\s*")
_BRANCH = re.compile(r"\\(if[A-Za-z@]*|else|fi)(?![A-Za-z@])")
_TESTS = {
    "iffalse", "iftrue", "ifx", "ifnum", "ifdim", "ifodd", "ifvmode", "ifhmode", "ifmmode", "ifinner", "ifvoid",
    "ifcase", "ifcat",
    "if", "ifdefined", "ifcsname", "ifeof", "ifpdf", "ifxetex", "ifluatex", "ifhbox", "ifvbox",
}  # fmt: skip
_NOT_OWN = {
    "begin", "end", "item", "section", "subsection", "subsubsection", "paragraph", "chapter", "title", "author", "date",
    "thanks",
    "footnote", "caption", "cite", "citet", "citep", "ref", "eqref", "label", "maketitle", "abstract", "href", "url",
    "input",
    "include", "par", "emph", "textbf", "textit", "text", "mbox", "\\", "ensuremath", "bibitem", "textsuperscript",
    "textsubscript",
    "left", "right", "frac", "sqrt", "%", "$", "&", "#", "_", "{", "}",
}  # fmt: skip
"""Names whose meaning stays, however a style defines them anew: what they stand for is known."""


@dataclass(frozen=True)
class _Macro:
    body: str
    arguments: int = 0
    default: str | None = None
    """Of the first argument, when that is optional."""


class Expander:
    """Expands macros in one pass over the source, in which a definition holds from its place on."""

    def __init__(self, theorems: dict[str, str]):
        self._macros: dict[str, _Macro] = {}
        self._flags: dict[str, bool] = {"iffalse": False, "iftrue": True}
        self._open: list[bool] = []
        self._theorems = theorems
        self._stack: list[list] = []
        """[text, place] of what is still to be read: the source, and on it the bodies being expanded."""
        self._out: list[str] = []
        self._left = MAX_EXPANSIONS

    def run(self, text: str) -> str:
        """The text with all that is defined expanded, and without the definitions."""
        self._stack = [[text, 0]]
        room = 20 * len(text) + (1 << 20)
        while self._stack:
            text, position = self._stack[-1]
            match = _STOP.search(text, position)
            piece = text[position : match.start() if match else None]
            room -= len(piece)
            if room < 0:  # expanded beyond belief: what is left stays as it is written
                self._left = 0
            self._out.append(piece)
            if match is None:
                self._stack.pop()
                continue
            self._stack[-1][1] = match.end()
            if not self._defined(match.group(1)) and not self._conditional(match.group(1)):
                self._macro(match)
        return "".join(self._out)

    def _macro(self, match: re.Match[str]) -> None:
        name = match.group(1)
        if name in ("begin", "end") and (environment := _ENVIRONMENT.match(self._stack[-1][0], match.end())):
            key = f"{name}{{{environment.group(1)}}}"
            if key in self._macros and self._left > 0:
                self._stack[-1][1] = environment.end()
                name = key
        macro = self._macros.get(name)
        if macro is None or self._left <= 0 or len(self._stack) > MAX_NESTING:
            self._out.append(match.group())
            return
        before = [list(level) for level in self._stack]
        arguments = self._arguments(macro)
        if arguments is None:
            self._stack = before
            self._out.append(match.group() if "{" not in name else f"\\{name}")
            return
        self._left -= 1
        body = _HASH.sub(lambda found: arguments[int(found[1]) - 1] if 0 < int(found[1]) <= len(arguments) else "", macro.body)
        self._push(body)

    def _push(self, body: str) -> None:
        """Read a macro's body next."""
        text, position = self._stack[-1]
        following = text[position : position + 1]
        before = next((piece.rstrip() for piece in reversed(self._out) if piece.strip()), "")
        if (
            before.endswith(("^", "_"))
            and not before.endswith(("\\_", "\\^"))
            and not re.fullmatch(r".|\\[A-Za-z]+|\{.*\}", body)
        ):
            body = f"{{{body}}}"
        elif body.endswith("\\xspace"):
            body = body.removesuffix("\\xspace") + (" " if following.isalnum() or following in ("(", "$") else "")
        elif _LAST_NAME.search(body) and following.isalpha():
            body += " "
        self._stack.append([body, 0])

    def _arguments(self, macro: _Macro) -> list[str] | None:
        """A macro's arguments; None when they are not there."""
        if not macro.arguments:
            return []
        found: list[str] = []
        if macro.default is not None:
            text, position = self._stack[-1]
            given = _DEFAULT.match(text, position)
            if given:
                self._stack[-1][1] = given.end()
            found.append(given.group(1) if given else macro.default)
        while len(found) < macro.arguments:
            argument = self._argument()
            if argument is None:
                return None
            found.append(argument)
        return found

    def _argument(self) -> str | None:
        while self._stack:
            text, position = self._stack[-1]
            while position < len(text) and text[position].isspace():
                position += 1
            if position < len(text):
                break
            if len(self._stack) == 1:
                return None
            self._stack.pop()
        if inner := group(text, position):
            self._stack[-1][1] = inner[1]
            return inner[0]
        if text[position] in "{}":
            return None
        token = _STOP.match(text, position)
        self._stack[-1][1] = token.end() if token else position + 1
        return token.group() if token else text[position]

    def _conditional(self, name: str) -> bool:
        """Decide \\iffalse, \\iftrue and the switches of \\newif, whose branch not taken is dropped."""
        name = self._tested(name)
        if name in self._flags:
            if self._flags[name]:
                self._open.append(True)
            elif self._skip(stop_at_else=True) == "else":
                self._open.append(False)
        elif name == "else" and self._open:
            self._skip(stop_at_else=False)
            self._open.pop()
        elif name == "fi" and self._open:
            self._open.pop()
        elif name.endswith(("true", "false")) and f"if{name.removesuffix('true').removesuffix('false')}" in self._flags:
            self._flags[f"if{name.removesuffix('true').removesuffix('false')}"] = name.endswith("true")
        else:
            return False
        return True

    def _tested(self, name: str) -> str:
        """\\iftrue or \\iffalse for a test that can be told without TeX: \\if0, \\ifx of two commands, \\ifdefined."""
        text, position = self._stack[-1]
        if name == "if" and (zero := _ZERO.match(text, position)):
            self._stack[-1][1] = zero.end()
            return "iffalse"
        if name == "ifx" and (pair := _PAIR.match(text, position)):
            self._stack[-1][1] = pair.end()
            first, second = (self._macros.get(command, command) for command in pair.groups())
            return "iftrue" if first == second else "iffalse"
        if name == "ifdefined" and (named := _NAME.match(text, position)):
            self._stack[-1][1] = named.end()
            return "iftrue" if (named.group(1) or named.group(2)) in self._macros else "iffalse"
        return name

    def _skip(self, stop_at_else: bool) -> str | None:
        """Pass over a branch; returns the word that ended it, None without one, where nothing is passed over."""
        text, position = self._stack[-1]
        depth = 0
        for match in _BRANCH.finditer(text, position):
            word = match.group(1)
            if word in _TESTS or word in self._flags:
                depth += 1
            elif word == "fi" and depth:
                depth -= 1
            elif not depth and (word == "fi" or (word == "else" and stop_at_else)):
                self._stack[-1][1] = match.end()
                return word
        return None

    def _defined(self, name: str) -> bool:
        """Take up a definition that begins here; False when there is none that is understood."""
        text, position = self._stack[-1]
        if text[position : position + 1] == "*":
            position += 1
        if name in _COMMANDS:
            end = self._command(text, position, keep_old=name == "providecommand")
        elif name in _DEFS:
            end = self._def(text, position)
        elif name == "let":
            end = self._let(text, position)
        elif name in ("newenvironment", "renewenvironment"):
            end = self._environment(text, position)
        elif name == "DeclareMathOperator":
            end = self._operator(text, position, star="*" if text[position - 1] == "*" else "")
        elif name in ("newtheorem", "spnewtheorem", "declaretheorem"):
            end = self._theorem(text, position)
        elif name == "newif":
            switch = _NAME.match(text, position)
            if switch and (word := switch.group(1) or switch.group(2)).startswith("if"):
                self._flags[word] = False
            end = switch.end() if switch else None
        else:
            return False
        if end is None:
            return False
        self._stack[-1][1] = end
        return True

    def _define(self, name: str, macro: _Macro) -> None:
        body = _MODE.sub(r"\\ensuremath{\1}", macro.body)
        used = re.search(rf"\\{re.escape(name)}(?![A-Za-z])", body) if "{" not in name else None
        self._macros.pop(name, None)
        if name not in _NOT_OWN and not used and not _PROGRAMMING.search(body) and body.count("{") == body.count("}"):
            self._macros[name] = _Macro(body.strip("\n"), macro.arguments, macro.default)

    def _command(self, text: str, position: int, keep_old: bool) -> int | None:
        if not (named := _NAME.match(text, position)):
            return None
        name, end = named.group(1) or named.group(2), named.end()
        count, default = 0, None
        if number := _COUNT.match(text, end):
            count, end = int(number.group(1)), number.end()
            if optional := _DEFAULT.match(text, end):
                default, end = optional.group(1), optional.end()
        body = group(text, end + len(text[end : end + 80]) - len(text[end : end + 80].lstrip()))
        if body is None:
            return None
        if not keep_old or name not in self._macros:
            self._define(name, _Macro(body[0], count, default))
        return body[1]

    def _def(self, text: str, position: int) -> int | None:
        if not (named := _NAME.match(text, position)):
            return None
        name = named.group(1) or named.group(2)
        if plain := _PARAMETERS.match(text, named.end()):
            if (body := group(text, plain.end())) is None:
                return None
            self._define(name, _Macro(body[0], len(plain.group(1)) // 2))
            return body[1]
        start = text.find("{", named.end(), named.end() + 200)  # delimited arguments: left as they are
        body = group(text, start) if start >= 0 else None
        self._macros.pop(name, None)
        return body[1] if body else None

    def _let(self, text: str, position: int) -> int | None:
        if not (found := _LET.match(text, position)):
            return None
        name, meaning = found.groups()
        macro = self._macros.get(meaning[1:]) if meaning.startswith("\\") else None
        self._define(name, macro or _Macro(meaning))
        return found.end()

    def _environment(self, text: str, position: int) -> int | None:
        if not (named := _ENVIRONMENT.match(text, position)):
            return None
        name, end, count, default = named.group(1), named.end(), 0, None
        if number := _COUNT.match(text, end):
            count, end = int(number.group(1)), number.end()
            if optional := _DEFAULT.match(text, end):
                default, end = optional.group(1), optional.end()
        bodies = []
        for _ in range(2):
            end += len(text[end : end + 80]) - len(text[end : end + 80].lstrip())
            if (body := group(text, end)) is None:
                return None
            bodies.append(body[0].strip())
            end = body[1]
        if f"\\begin{{{name}}}" not in bodies[0]:
            for key, body, arguments in ((f"begin{{{name}}}", bodies[0], count), (f"end{{{name}}}", bodies[1], 0)):
                if not _PROGRAMMING.search("".join(bodies)):
                    self._macros[key] = _Macro(body, arguments, default if arguments else None)
        return end

    def _operator(self, text: str, position: int, star: str) -> int | None:
        if not (named := _NAME.match(text, position)) or (body := group(text, named.end())) is None:
            return None
        self._define(named.group(1) or named.group(2), _Macro(f"\\operatorname{star}{{{body[0]}}}"))
        return body[1]

    def _theorem(self, text: str, position: int) -> int | None:
        pattern = re.compile(r"(?:\[[^\]]*\])?\{(\w+\*?)\}\s*(?:\[[^\]]*\])?\s*(?:\{([^{}]*)\}\s*(?:\[[^\]]*\])?)?")
        if not (found := pattern.match(text, position)):
            return None
        self._theorems[found.group(1)] = (found.group(2) or found.group(1)).strip().capitalize()
        return found.end()


def group(text: str, start: int) -> tuple[str, int] | None:
    """(what is within the braces at `start`, place behind them); None when there are none, or no end to them."""
    if text[start : start + 1] != "{":
        return None
    depth = 0
    for match in _BRACE.finditer(text, start, start + MAX_ARGUMENT):
        if match.group() == "{":
            depth += 1
        elif match.group() == "}":
            depth -= 1
            if depth == 0:
                return text[start + 1 : match.start()], match.end()
    return None
