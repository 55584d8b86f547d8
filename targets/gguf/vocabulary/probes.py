"""Texts that tell tokenizers apart: runs of digits, endings, whitespace, marks, scripts, and what stands next to what."""

from __future__ import annotations

_CUT = "\x1f"  # between the texts of a group, in none of them
_GROUPS = (
    # runs of digits, alone and beside letters and marks
    "1\x1f12\x1f123\x1f1234\x1f12345\x1f1234567\x1f1,234,567.89\x1fa1b22c333\x1fx 7\x1fx  77\x1f3.14159\x1fv2.0.1\x1f"
    "0x1F\x1f-42\x1f50%\x1fyear 2024\x1f(123)\x1f12\n34\x1f\u0661\u0662\u0663\u0664\x1f\uff11\uff12\uff13\uff14\x1f"
    "\u2167 \xb2 \xbd \u2460\x1fH2O\x1f1st 2nd\x1f1 000 000",
    # endings after an apostrophe, in both cases
    "it's\x1fIT'S\x1fwe'll WE'LL We'Ll\x1fdon't DON'T\x1fthey've I'm I'd you're\x1f's\x1f 's x\x1fa'b\x1frock'n'roll\x1f"
    "O'Reilly\x1fAnkara'da\x1fit\u2019s\x1f'tis\x1fx'\x1f''s\x1f'S'T'RE\x1fl'heure d'or\x1f'sun",
    # whitespace, alone, repeated, and before and after words
    " \x1f  \x1f   \x1f     \x1f a\x1f  a\x1f   a\x1fa \x1fa  \x1fa   b\x1f\ta\x1f\t\ta\x1fa\tb\x1f \t a\x1fa\n\x1f\n\x1f"
    "\n\n\x1f\n\n\n\x1fa\nb\x1fa\n\nb\x1fa \n b\x1fa\n  b\x1fa  \n\n  b\x1f\r\n\x1fa\r\nb\r\n\x1fa\rb\x1f\n \n\x1f \n\x1f"
    "\n a\x1fx = 1\n\n\n    y\x1fa\x0cb\x0bc\x1fa\xa0b\x1fa\u3000b\x1fa\u2003b\x1f                 x\x1f"
    "                                                                      \x1f"
    "x                                        y\x1f\t\t\t\t\t\t\t\t\t\x1f\n\n\n\n\n\n\n\n\n\n\n\n\x1fa \xa0 b\x1f"
    "a\u200bb\x1fa\x85b",
    # marks
    "!\x1f!!\x1f?!\x1f...\x1fa.b\x1fa. b\x1f.a\x1f .a\x1f--x\x1fa--b\x1f(a)\x1f((a))\x1f[x]\x1f{y}\x1f<z>\x1fa_b\x1f_a\x1f"
    "__init__\x1f#tag\x1f@me\x1f$5\x1fa/b/c\x1fa/\nb\x1f//\n\x1fend.\nNext\x1fend.\n\nNext\x1f),\n(\x1f};\n}\x1fa+b=c\x1f"
    "`code`\x1fx^2\x1f~|~\x1f\xabq\xbb\x1f\u201cq\u201d\x1f\u2026\x1f\u2014x\x1f\u20ac5 \xa35\x1f100\xb0\x1fa\xb7b\x1f"
    "C++ C#\x1fe-mail\x1fhttp://a.b/c?d=e&f\x1fa*b**c\x1f<<>>\x1f\\n\x1f%s\x1fa;b:c\x1f. . .\x1f !\x1f! !",
    # upper and lower case
    "HelloWorld\x1fhelloWorld\x1fHELLOworld\x1fHTTPServer\x1fiPhone\x1fXMLHttpRequest\x1fABC\x1faBC\x1f\u01c5x\x1f"
    "\xc9COLE \xe9cole\x1fSTRASSE stra\xdfe\x1f\u0394\u03b5\u03bb\u03c4\u03b1\x1f"
    "\u041f\u0440\u0438\u0432\u0435\u0442 \u041c\u0418\u0420\x1f\u0130stanbul I\u0131\x1f\ufb01n\x1f"
    "\U00010400\U00010428\x1fA1B\x1fcamelCase2Snake",
    # Chinese, Japanese, Korean
    "\u4f60\u597d\u4e16\u754c\x1f\u4f60\u597d, \u4e16\u754c\u3002\x1f\u6211\u67093\u672c\u4e66\x1fabc\u4f60\u597ddef\x1f"
    "\u3053\u3093\u306b\u3061\u306f\x1f\u30ab\u30bf\u30ab\u30ca\u6f22\u5b57\x1f\uc548\ub155\ud558\uc138\uc694\x1f"
    "\uc548\ub155 abc 123\x1f\uff21\uff22\uff23\uff01\x1f\u300c\u4f60\u300d\x1f\u3042\u3001\u3044\u3002\x1f"
    "\u4f60 \u597d\x1f\u4e2d\u6587\n\u82f1\u6587\x1f\u3007\u4e00",
    # combining marks
    "e\u0301\x1fcafe\u0301 na\xefve\x1f\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e\x1f"
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01\x1f\u09ac\u09be\u0982\u09b2\u09be\x1f"
    "\u0bb5\u0ba3\u0b95\u0bcd\u0b95\u0bae\u0bcd\x1fZ\u0351\u0343al\u0348go\x1fa\u0301b\u0302c\x1f\u0301x\x1f \u0301\x1f"
    "Vi\u1ec7t Nam\x1f1\u0301",
    # right to left
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645\x1f"
    "\u0627\u0644\u0639\u064e\u0631\u064e\u0628\u0650\u064a\u064e\u0651\u0629\x1f\u0634\u0643\u0631\u0627\u060c 123\x1f"
    "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd\x1f\u05e9\u05b8\u05c1\u05dc\u05d5\u05b9\u05dd\x1f"
    "\u06cc\u06a9\u06d4\x1f\u0646\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
    # emoji and symbols
    "\U0001f600\x1fa\U0001f600b\x1f \U0001f600\U0001f600\x1f\U0001f468\u200d\U0001f469\u200d\U0001f467\x1f\u2764\ufe0f\x1f"
    "\U0001f1eb\U0001f1f7\x1f\U0001f44d\U0001f3fd\x1fx \u2192 y\x1f\u2200x\u2208S\x1f\U0001d4b3",
)
_TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "def f(x):\n    return x + 1\n\n\nclass A:\n\tpass\n",
    'for (int i = 0; i < 10; ++i) {\n  printf("%d\\n", i);\n}\n',
    "| a | b |\n|---|---|\n| 1 | 2 |\n",
    "Price: $1,299.99 (incl. 19% VAT) - order #00042!",
    "On 2024-01-31T23:59:59Z, 192.168.0.1 sent 1024 bytes.",
    "She said: \u201cI\u2019ll be there at 5 o\u2019clock\u201d \u2014 and left\u2026",
    "\u0421\u044a\u0435\u0448\u044c \u0435\u0449\u0451 \u044d\u0442\u0438\u0445 \u043c\u044f\u0433\u043a\u0438\u0445 \u0431\u0443\u043b\u043e\u043a, 100 \u0440\u0443\u0431.",
    "\u4eca\u5929\u5929\u6c14\u5f88\u597d\uff0c\u6211\u4eec\u53bb\u516c\u56ed\u5427\uff01Let's go 2gether.",
)
PROBES: tuple[str, ...] = (*(text for group in _GROUPS for text in group.split(_CUT)), *_TEXTS)
