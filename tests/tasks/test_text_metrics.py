"""Metrics of generated text against hand-computed values and their authors' code, and where something is absent."""

import json
import logging
import math
import random
import subprocess
import sys

import pytest
from conftest import SHARED

from peftbench.errors import ConfigurationError
from peftbench.tasks.base import LOWER_IS_BETTER
from peftbench.tasks.text_metrics import (
    TEXT_METRICS,
    compute_text_metrics,
    describe_text_metrics,
    meteor,
    require_text_metrics,
)
from peftbench.tasks.text_metrics.corpus import Corpus, Pairs
from peftbench.tasks.text_metrics.ter import ter
from peftbench.tasks.text_metrics.treebank import ptb_words, treebank_tokens

pytest.importorskip("sacrebleu")
pytest.importorskip("nltk")

CONVENTIONS = ("e2e", "webnlg")
HERE = tuple(name for name in TEXT_METRICS if name != "meteor")
"""What needs no Java."""

needs_meteor = pytest.mark.skipif(meteor.obstacle() is not None, reason=str(meteor.obstacle()))


def score(name, hypotheses, references, convention="e2e"):
    return compute_text_metrics([name], hypotheses, references, convention)[name]


VOCABULARY = ("the", "a", "cheap", "pub", "near", "river", "serves", "food", ".", ",", "and")


def corpus(seed, inputs=12):
    """Random texts with one to four references each, of which the first is much like the hypothesis."""
    draw = random.Random(seed)
    hypotheses, references = [], []
    for _ in range(inputs):
        texts = [draw.choices(VOCABULARY, k=draw.randint(6, 18)) for _ in range(draw.randint(1, 4))]
        hypotheses.append(" ".join(word if draw.random() < 0.8 else draw.choice(VOCABULARY) for word in texts[0][1:]))
        references.append([" ".join(words) for words in texts])
    return hypotheses, references


def e2e(split, most=None):
    """Real meaning representations: their first reference as hypothesis, the others as references."""
    file = SHARED / "data" / "e2e_nlg" / f"{split}.parquet"
    if not file.is_file():
        pytest.skip("E2E is not on this machine")
    import pandas

    groups = pandas.read_parquet(file).groupby("meaning_representation", sort=False)["human_reference"]
    texts = [list(group) for _, group in groups][:most]
    return [group[0] for group in texts], [group[1:] or group for group in texts]


# By hand


def test_bleu_by_hand():
    # Matches of 1 to 4 tokens: 5 of 6 ("the" counts once), 3 of 5, 2 of 4, 1 of 3; as long as the reference.
    value = score("bleu", ["The cat sat on the mat"], [["the cat sat on a mat"]])
    assert value == pytest.approx((5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** (1 / 4), abs=1e-12)


def test_bleu_penalises_a_short_text():
    # Nine tokens of ten, all matched.
    assert score("bleu", ["a b c d e f g h i"], [["a b c d e f g h i j"]]) == pytest.approx(math.exp(1 - 10 / 9))


def test_nist_matches_against_all_references_at_once():
    # Four words of reference, "b" and "c" once each: two bits each, over two words. No pair matches.
    assert score("nist", ["b c"], [["a b", "a c"]]) == pytest.approx(2.0)


def test_nist_adds_the_orders():
    # "a" is one bit (2 of 4), "b" two, "b" after "a" one (1 of 2): 3 over 2 words and 1 over 1 pair.
    assert score("nist", ["a b"], [["a b", "a c"]]) == pytest.approx(1.5 + 1.0)


def test_nist_halves_a_text_of_two_thirds():
    # Each of three words is log2(3) bits, the pair none.
    assert score("nist", ["x y"], [["x y z"]]) == pytest.approx(math.log2(3) / 2)


def test_nist_penalises_by_the_mean_length_of_the_references():
    # Lengths 2 and 4: as long as their mean. "x" and "y" are 2 of 6 words, "z" is one; after "x" comes "y" for sure,
    # after "y" and after "x y" comes "z" once of twice.
    value = score("nist", ["x y z"], [["x y", "x y z w"]])
    assert value == pytest.approx((2 * math.log2(3) + math.log2(6)) / 3 + (0 + 1) / 2 + 1)


def test_rouge_l_takes_precision_and_recall_from_different_references():
    # Recall 1 from the first reference (2 of 2), precision 3/4 from the second.
    value = score("rouge_l", ["p q r s"], [["p q", "p r s x y z"]])
    assert value == pytest.approx((1 + 1.44) * 0.75 / (1 + 1.44 * 0.75))


def test_cider_by_hand():
    # Both inputs' words occur with one of two inputs: all weights ln 2. Orders 3 and 4 are empty.
    # "red" against "red house": cosine 1/sqrt(2) in order 1, one pair of neighbours less, sigma 6.
    value = score("cider", ["red", "blue car"], [["red house"], ["blue car"]])
    first = 10 / 4 * math.exp(-1 / 72) / math.sqrt(2)
    assert value == pytest.approx((first + 5) / 2)


def test_ter_by_hand():
    # A shift over 2 words; the second reference: a substitution over 4. Then an insertion and a deletion.
    assert score("ter", ["y x"], [["x y"]]) == 0.5
    assert score("ter", ["p q r s"], [["u v", "p q r t"]]) == 0.25
    assert score("ter", ["p q", "p q r"], [["p q r"], ["p q"]]) == pytest.approx((1 / 3 + 1 / 2) / 2)


def test_ter_of_the_papers_example():
    """Snover et al. (2006), section 2: one shift, two substitutions and an insertion over 13 words."""
    reference = "SAUDI ARABIA denied THIS WEEK information published in the AMERICAN new york times"
    hypothesis = "THIS WEEK THE SAUDIS denied information published in the new york times"
    assert ter(Pairs([hypothesis.split()], [[reference.split()]])) == 4 / 13


def test_chrf_by_hand():
    # Characters 2 of 3, pairs 1 of 2, triples 0 of 1; longer ones do not occur.
    assert score("chrf", ["abc"], [["abd"]]) == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)


# Against other people's code


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_bleu_is_nltks_on_the_same_tokens(seed, convention):
    from nltk.translate.bleu_score import corpus_bleu

    hypotheses, references = corpus(seed)
    tokens = Corpus(hypotheses, references, convention).tokens
    expected = corpus_bleu(tokens.references, tokens.hypotheses)
    assert expected > 0.05
    assert score("bleu", hypotheses, references, convention) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", ["bleu", "chrf"])
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_repeated_references_change_nothing(name, convention):
    """The published evaluations repeat an input's first reference until all inputs have as many."""
    import sacrebleu

    hypotheses, references = corpus(3)
    assert len({len(texts) for texts in references}) > 1
    padded = [texts + texts[:1] * (6 - len(texts)) for texts in references]
    value = score(name, hypotheses, references, convention)
    assert value == score(name, hypotheses, padded, convention)
    texts = Corpus(hypotheses, padded, convention).texts
    streams = [list(stream) for stream in zip(*texts.references, strict=True)]
    theirs = {
        "bleu": lambda: sacrebleu.corpus_bleu(texts.hypotheses, streams, lowercase=True, force=True),
        "chrf": lambda: sacrebleu.corpus_chrf(texts.hypotheses, streams),
    }
    assert value == pytest.approx(theirs[name]().score / 100, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_nist_is_nltks_for_one_reference(seed):
    from nltk.translate.nist_score import corpus_nist

    hypotheses, references = corpus(seed)
    single = [texts[:1] for texts in references]
    tokens = Corpus(hypotheses, single, "e2e").tokens
    expected = corpus_nist(tokens.references, tokens.hypotheses, n=5)
    assert score("nist", hypotheses, single) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_cider_and_rouge_are_coco_captions(seed, convention):
    cider = pytest.importorskip("pycocoevalcap.cider.cider")
    rouge = pytest.importorskip("pycocoevalcap.rouge.rouge")
    hypotheses, references = corpus(seed)
    words = Corpus(hypotheses, references, convention).words
    res = {i: [" ".join(text)] for i, text in enumerate(words.hypotheses)}
    gts = {i: [" ".join(text) for text in texts] for i, texts in enumerate(words.references)}
    ours = compute_text_metrics(["cider", "rouge_l"], hypotheses, references, convention)
    assert ours["cider"] == pytest.approx(cider.Cider().compute_score(gts, res)[0], abs=1e-10)
    assert ours["rouge_l"] == pytest.approx(rouge.Rouge().compute_score(gts, res)[0], abs=1e-12)
    assert ours["cider"] > 0.1


@pytest.mark.parametrize("seed", range(40))
def test_ter_is_pyters(seed):
    pyter = pytest.importorskip("pyter")
    draw = random.Random(seed)
    vocabulary = "abcdefghijklmnopqrstuvwxyz"[: draw.randint(2, 20)]

    def words():
        return draw.choices(vocabulary, k=draw.randint(1, 14))

    hypotheses, references = [words() for _ in range(8)], [[words() for _ in range(3)] for _ in range(8)]
    # Half of the hypotheses are a reference with runs in another order, where shifts pay.
    for row in range(4):
        cut = draw.randint(0, len(references[row][0]))
        hypotheses[row] = references[row][0][cut:] + references[row][0][:cut] + draw.choices(vocabulary, k=2)
    expected = [
        min(pyter.ter(hypothesis, reference) for reference in texts)
        for hypothesis, texts in zip(hypotheses, references, strict=True)
    ]
    for hypothesis, texts, rate in zip(hypotheses, references, expected, strict=True):
        assert ter(Pairs([hypothesis], [texts])) == rate
    assert ter(Pairs(hypotheses, references)) == pytest.approx(sum(expected) / 8, abs=1e-15)


def test_ter_is_pyters_on_real_texts():
    pyter = pytest.importorskip("pyter")
    hypotheses, references = e2e("validation", 15)
    words = Corpus(hypotheses, references, "webnlg").words
    expected = [
        min(pyter.ter(hypothesis, reference) for reference in texts[:2])
        for hypothesis, texts in zip(*words, strict=True)
    ]
    value = score("ter", hypotheses, [texts[:2] for texts in references], "webnlg")
    assert value == pytest.approx(sum(expected) / len(expected), abs=1e-12)


@needs_meteor
def test_meteor_is_coco_captions_whatever_the_text():
    hypotheses, references = corpus(1)
    hypotheses += ["", "caf\u00e9 \u65e5\u672c\u8a9e \U0001f642", "a ||| b"]
    references += [["a pub"], ["the caf\u00e9 \u65e5\u672c\u8a9e", ""], ["a b", "c"]]
    # `Meteor` of pycocoevalcap 1.2 on the same tokens.
    assert score("meteor", hypotheses, references) == pytest.approx(0.39507488548293995, abs=1e-12)


# Tokens


# What `PTBTokenizer` of pycocoevalcap 1.2 gave for these texts.
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A (small) place.", "a -lrb- small -rrb- place"),
        ("costs \u00a320, \u20ac30 or $5; 10% off & more", "costs # 20 $ 30 or $ 5 10 % off & more"),
        ("I don't, won't. cannot gonna we'll 'em", "i do n't wo n't can not gon na we 'll 'em"),
        ("caf\u00e9 \u2014 a \u201cnice\u201d one\u2026 really...", "caf\u00e9 a nice one really"),
        (
            "The U.S. army at St. Mary and Mr. X etc. It is etc.",
            "the u.s. army at st. mary and mr. x etc. it is etc.",
        ),
        ("1/2 and 3,000.50 at 10:30 a.m. on 5/6", "1/2 and 3,000.50 at 10:30 a.m. on 5/6"),
        ("it's the dogs' house, 'The Mill's'", "it 's the dogs house the mill 's"),
        ("good/bad and/or high-quality x-y non-", "good/bad and/or high-quality x-y non"),
        ("wasn't. He said 'yes'. \"Quoted.\"", "was n't he said yes quoted"),
        ("\u65e5\u672c\u8a9e \u30c6\u30b9\u30c8", "\u65e5\u672c\u8a9e \u30c6\u30b9\u30c8"),
        ("", ""),
    ],
)
def test_words_are_ptb_tokenizers(text, expected):
    assert " ".join(ptb_words(text)) == expected


@needs_meteor
def test_words_are_ptb_tokenizers_on_every_text_of_e2e():
    """Java is here: what the E2E script would compare, and what is compared instead."""
    ptb = pytest.importorskip("pycocoevalcap.tokenizer.ptbtokenizer")
    hypotheses, references = e2e("validation")
    texts = sorted({*hypotheses, *(text for group in references for text in group)})
    theirs = ptb.PTBTokenizer().tokenize({row: [{"caption": text}] for row, text in enumerate(texts)})
    assert [row for row, text in enumerate(texts) if " ".join(ptb_words(text)) != theirs[row][0]] == []


def test_nltk_tokens_are_those_of_word_tokenize():
    from nltk import word_tokenize

    for text in Corpus(['Don\'t "go" to the U.S., cannot it?'], [["a"]], "webnlg").texts.hypotheses:
        assert text == 'don \' t " go " to the u . s . , cannot it ?'
        assert treebank_tokens(text) == word_tokenize(text, preserve_line=True)


# What holds for every metric


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_text_that_is_its_reference_has_the_best_score(convention):
    texts = [
        "The pub is near the river .",
        "Caf\u00e9 serves cheap \u65e5\u672c\u8a9e food , \u00a320 .",
        "A pub and a bar here .",
    ]
    scores = compute_text_metrics(HERE, texts, [[text] for text in texts], convention)
    best = {"bleu": 1, "rouge_l": 1, "cider": 10, "ter": 0, "chrf": 1}
    assert {name: scores[name] for name in best} == pytest.approx(best)
    worse = compute_text_metrics(HERE, ["A pub .", *texts[1:]], [[text] for text in texts], convention)
    for name in HERE:
        assert (worse[name] > scores[name]) if name in LOWER_IS_BETTER else (worse[name] < scores[name]), name


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_references_and_of_inputs_does_not_matter(convention, seed):
    hypotheses, references = corpus(seed)
    scores = compute_text_metrics(HERE, hypotheses, references, convention)
    turned = compute_text_metrics(HERE, hypotheses[::-1], [texts[::-1] for texts in references[::-1]], convention)
    assert turned == pytest.approx(scores, abs=1e-12)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_empty_texts_have_a_score(convention):
    nothing = compute_text_metrics(HERE, ["", " \n "], [["a pub", "the pub by the river"], ["food"]], convention)
    assert nothing == {"bleu": 0, "nist": 0, "rouge_l": 0, "cider": 0, "ter": 1, "chrf": 0}
    some = compute_text_metrics(HERE, ["", "the pub"], [["a bar"], ["the pub"]], convention)
    assert (some["rouge_l"], some["ter"], some["cider"]) == pytest.approx((0.5, 0.5, 2.5))
    blank = compute_text_metrics(HERE, ["a pub", ""], [["", "..."], [""]], convention)
    assert all(math.isfinite(value) for value in blank.values())
    assert blank["ter"] >= 0.5


@pytest.mark.parametrize("text", ["\U0001f642\u200d\u00e9\u0301 \u0130stanbul", "x" * 3000, "pub " * 150, "..." * 50])
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_odd_texts_have_a_score(text, convention):
    scores = compute_text_metrics(HERE, [text, "a pub"], [["the pub", "a bar by the river"], [text]], convention)
    assert all(math.isfinite(value) for value in scores.values())


def test_line_breaks_are_blanks():
    plain = compute_text_metrics(HERE, ["the pub by the river"], [["a pub by the river"]], "e2e")
    assert compute_text_metrics(HERE, ["the pub\nby  the\triver\n"], [["a pub\nby the river"]], "e2e") == plain


def test_case_counts_in_neither_convention_but_for_e2es_chrf():
    hypotheses, references = corpus(2)
    upper = [text.upper() for text in hypotheses]
    for convention in CONVENTIONS:
        names = [name for name in HERE if (name, convention) != ("chrf", "e2e")]
        assert compute_text_metrics(names, upper, references, convention) == compute_text_metrics(
            names, hypotheses, references, convention
        )


def test_webnlg_keeps_six_references_and_e2e_all():
    texts = [f"pub number {number} is by the river" for number in range(1, 8)]
    assert score("ter", [texts[6]], [texts], "e2e") == 0
    assert score("ter", [texts[6]], [texts], "webnlg") == 1 / 7
    assert score("bleu", [texts[6]], [texts], "webnlg") == score("bleu", [texts[6]], [texts[:6]], "webnlg") < 1


def test_webnlg_splits_at_every_non_word_character():
    corpus = Corpus(["Alan_Bean's \u00a33.5-km"], [["x"]], "webnlg")
    assert corpus.texts.hypotheses == ["alan_bean ' s \u00a3 3 . 5 - km"]


# Wrong or absent


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (["bleu", "blue"], ["a"], [["a"]], "e2e"),
            "unknown metric 'blue'; known metrics of generated text: bleu, nist",
        ),
        ((["bleu"], ["a"], [["a"]], "dart"), "unknown convention 'dart'; known conventions: e2e, webnlg"),
        ((["bleu"], [], [], "e2e"), "there is no text to score"),
        ((["bleu"], ["a", "b"], [["a"]], "e2e"), "2 hypotheses, but references of 1 inputs"),
        ((["bleu"], ["a", "b"], [["a"], []], "e2e"), "input 1 needs a list of one or more references"),
        ((["bleu"], ["a"], ["a"], "e2e"), "input 0 needs a list of one or more references"),
    ],
)
def test_wrong_input_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        compute_text_metrics(*arguments)


def test_descriptions_name_the_version_and_the_settings():
    import nltk
    import sacrebleu

    e2e, webnlg = (describe_text_metrics(TEXT_METRICS, convention) for convention in CONVENTIONS)
    assert e2e["bleu"] == (
        f"sacrebleu {sacrebleu.__version__}, nrefs:var|case:lc|eff:no|tok:13a|smooth:none, on the text"
    )
    assert "case:mixed" in webnlg["bleu"]
    assert "split at non-word characters" in webnlg["bleu"]
    for name in ("rouge_l", "cider", "ter"):
        assert f"nltk {nltk.__version__}" in e2e[name]
        assert "first 6 references" in webnlg[name]
    assert list(e2e) == list(TEXT_METRICS)


def test_without_java_meteor_is_none_and_nothing_else_changes(monkeypatch, caplog):
    hypotheses, references = corpus(0)
    with_java = compute_text_metrics(HERE, hypotheses, references, "e2e")
    monkeypatch.setattr("shutil.which", lambda name: None)
    with caplog.at_level(logging.WARNING, logger="peftbench"):
        without = compute_text_metrics(TEXT_METRICS, hypotheses, references, "e2e")
    assert without == with_java | {"meteor": None}
    assert [record.getMessage() for record in caplog.records] == ["meteor is not computed: METEOR 1.5 needs Java"]
    assert describe_text_metrics(["meteor"], "e2e") == {"meteor": "not computed: METEOR 1.5 needs Java"}
    require_text_metrics(["meteor"])


def test_without_the_jar_meteor_says_where_it_comes_from(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/java")
    monkeypatch.setitem(sys.modules, "pycocoevalcap", None)
    assert "pip install --no-deps pycocoevalcap==1.2" in describe_text_metrics(["meteor"], "e2e")["meteor"]
    assert score("meteor", ["a"], [["a"]]) is None


@pytest.mark.parametrize(
    ("java", "reason"),
    [
        ("exec sleep 60", "METEOR 1.5 took more than 0.3 s"),
        ("exit 1", "METEOR 1.5 failed"),
        ("read line; echo Error: no memory", "METEOR 1.5 failed"),
    ],
)
def test_a_java_that_hangs_or_fails_costs_meteor_only(java, reason, monkeypatch, tmp_path, caplog):
    pytest.importorskip("pycocoevalcap")
    program = tmp_path / "java"
    program.write_text(f"#!/bin/sh\n{java}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(meteor, "TIME_LIMIT", 0.3 if "sleep" in java else 30)
    with caplog.at_level(logging.WARNING, logger="peftbench"):
        assert score("meteor", ["a pub"] * 2, [["the pub"]] * 2) is None
    assert reason in caplog.text


@pytest.mark.parametrize(("package", "name"), [("sacrebleu", "bleu"), ("sacrebleu", "nist"), ("nltk", "cider")])
def test_without_the_extra_one_sentence_says_what_to_install(package, name, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    sentence = (
        rf"^{package}, which the metrics of generated text need, is not installed; "
        r"run pip install 'peftbench\[generation\]'$"
    )
    with pytest.raises(ConfigurationError, match=sentence):
        require_text_metrics([name])
    with pytest.raises(ConfigurationError, match=sentence):
        score(name, ["a"], [["a"]])
    assert describe_text_metrics([name], "e2e") == {name: f"not computed: {package} is not installed"}
    require_text_metrics(["ter" if package == "sacrebleu" else "bleu"])


def test_the_names_come_without_the_extra():
    code = (
        "import json, sys; from peftbench.tasks.text_metrics import TEXT_METRICS, require_text_metrics;"
        "require_text_metrics(TEXT_METRICS);"
        "print(json.dumps(sorted({'sacrebleu', 'nltk', 'pycocoevalcap', 'numpy', 'torch'} & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
