"""Scores against the definitions, and against the llmlingua package's own choice of words."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from promptintern.compress.ranked import rank_units, split_units
from promptintern.compress.scores import llmlingua2_scores, self_information_scores
from promptintern.errors import UserError
from promptintern.prompt.template import parse_template

from tests.tiny import write_tiny_model

VOCABULARY = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "zeta",
    "eta",
    "theta",
    "iota",
    "kappa",
    "lambda",
    "mu",
    "nu",
    "xi",
    "omicron",
    "pi",
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder: Path = write_tiny_model(tmp_path_factory.mktemp("model"))
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def classifier() -> tuple[Any, Any]:
    """A small random BERT with two labels, and a tokenizer that splits each word in two."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForTokenClassification, PreTrainedTokenizerFast

    pieces = dict.fromkeys(
        [
            "[PAD]",
            "[UNK]",
            "[CLS]",
            "[SEP]",
            "[MASK]",
            ".",
            *(w[:2] for w in VOCABULARY),
            *(f"##{w[2:]}" for w in VOCABULARY),
        ]
    )
    pieces.pop("##", None)
    core = Tokenizer(models.WordPiece(vocab={p: i for i, p in enumerate(pieces)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()  # the package converts tokens back to text between its steps
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(pieces),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=512,
        num_labels=2,
        initializer_range=0.5,
    )
    return BertForTokenClassification(config).eval(), tokenizer


def test_self_information_is_the_mean_surprisal_of_a_words_tokens(base: tuple[Any, Any]) -> None:
    model, tokenizer = base
    template = parse_template("Sum up. {query}\nNow:")
    scores = self_information_scores(template, model, tokenizer)
    ids = tokenizer("Sum up. \nNow:", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        log_p = model(input_ids=torch.tensor([[tokenizer.bos_token_id, *ids]])).logits[0, :-1].log_softmax(-1)
    bits = [-float(log_p[i, token]) / math.log(2) for i, token in enumerate(ids)]
    # One token per byte: "Sum", " up.", " ", "\nNow:".
    expected = [sum(bits[0:3]) / 3, sum(bits[3:7]) / 4, bits[7], sum(bits[8:13]) / 5]
    assert scores == pytest.approx(expected, rel=1e-5)


def test_self_information_repeats_and_leaves_the_models_mode(base: tuple[Any, Any]) -> None:
    model, tokenizer = base
    template = parse_template("The same text twice. {query}")
    model.train()
    first = self_information_scores(template, model, tokenizer)
    assert model.training
    model.eval()
    assert self_information_scores(template, model, tokenizer) == first


def test_a_long_template_is_read_in_overlapping_windows(base: tuple[Any, Any]) -> None:
    model, tokenizer = base
    text = " ".join(f"word{i}" for i in range(400))  # some 3,000 byte tokens for a model with a context of 1,024
    scores = self_information_scores(parse_template(text + "{query}"), model, tokenizer)
    assert len(scores) == 400
    assert all(score > 0 for score in scores)
    short = self_information_scores(parse_template(text[:900] + "{query}"), model, tokenizer)
    assert scores[: len(short) - 1] == pytest.approx(short[:-1], rel=1e-4)  # the first window is the same


def test_a_classifier_needs_two_labels(classifier: tuple[Any, Any]) -> None:
    import copy

    model, tokenizer = classifier
    three = copy.deepcopy(model)
    three.config.num_labels = 3
    with pytest.raises(UserError, match="has 3 labels"):
        llmlingua2_scores(parse_template("{query} alpha"), three, tokenizer)


def package_compressor(model: Any, tokenizer: Any) -> Any:
    """The package's compressor around our model, without its constructor, which downloads."""
    import copy
    from types import SimpleNamespace

    from llmlingua import PromptCompressor

    package = object.__new__(PromptCompressor)
    package.model_name = "bert-base-multilingual-cased"
    package.tokenizer = copy.deepcopy(tokenizer)
    package.model = copy.deepcopy(model)
    package.device = "cpu"
    package.oai_tokenizer = SimpleNamespace(encode=lambda word: [word])  # one token per word
    package.init_llmlingua2()
    return package


@pytest.mark.parametrize("rate", [0.2, 0.35, 0.5, 0.8])
def test_the_package_keeps_the_same_words(classifier: tuple[Any, Any], rate: float) -> None:
    model, tokenizer = classifier
    order = torch.randperm(64, generator=torch.Generator().manual_seed(3)).tolist()
    words = [VOCABULARY[i % len(VOCABULARY)] for i in order]
    text = " ".join(words)
    theirs = package_compressor(model, tokenizer).compress_prompt_llmlingua2(
        [text], rate=rate, return_word_label=True, chunk_end_tokens=["."]
    )
    labels = [int(pair.split(" ")[1]) for pair in theirs["fn_labeled_original_prompt"].split("\t\t|\t\t")]
    template = parse_template(text + "{query}")
    assert [unit.text.strip() for unit in split_units(template)] == words
    kept = sorted(rank_units(llmlingua2_scores(template, model, tokenizer))[: sum(labels)])
    assert 0 < len(kept) < len(words)
    assert kept == [i for i, label in enumerate(labels) if label]


def test_a_long_template_is_cut_behind_a_full_stop(classifier: tuple[Any, Any]) -> None:
    model, tokenizer = classifier
    sentence = " ".join(VOCABULARY) + " ."
    one = llmlingua2_scores(parse_template(" ".join([sentence] * 17) + "{query}"), model, tokenizer)
    many = llmlingua2_scores(parse_template(" ".join([sentence] * 40) + "{query}"), model, tokenizer)
    assert len(many) == 40 * 17
    assert many[: len(one)] == pytest.approx(one, rel=1e-4)  # at most 17 sentences fit into one window
    assert many[len(one) : 2 * len(one)] == pytest.approx(one, rel=1e-4)
