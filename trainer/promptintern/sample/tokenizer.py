"""The sample model's tokenizer: a byte-level BPE tokenizer with a single token for every word of the sample worlds."""

import random
from collections.abc import Iterator
from typing import Any

from promptintern.sample import prose, words
from promptintern.sample.prose import world_template
from promptintern.sample.worlds import make_world, random_question, word_question

VOCABULARY = 2048
BOS, EOS, PAD = "<s>", "</s>", "<pad>"

PATTERN = r" ?\p{L}+| ?\p{N}{1,2}| ?[^\s\p{L}\p{N}]|\n|\s+(?!\S)|\s+"
"""The pattern that splits a text before its parts are tokenized separately. A part is a word, a number of at most two
digits or a single sign, each with the space before it, or a line break or other white space."""

COMMON_WORDS = """
find grep awk sed sort uniq head tail cat cut tr xargs wc ls cp mv rm mkdir rmdir touch chmod chown ln tar gzip gunzip
zip unzip ssh scp rsync curl wget ping kill ps top df du mount echo printf read test diff join paste split tee date
sleep cd pwd export source sudo which file name type print exec path dir user group home usr bin etc var log tmp txt
size time mtime newer depth max min perm null dev conf html java py sh js css bash
the of and to in a is that for it as was with be by on not he his but at are this have from or had an they which one
you were all her she there would their we him been has when who will no more if out so up said what its about than
into them can only other time new some could these two may first then do any like my now over such our man me even
most made after also did many off before must well back through years where much your way down should because long
each just state those people too mr how little good world make very year still see own work men day get here between
both under never same another know while last might us great old since against go came right used take three file
files directory directories function list string number find given write search line lines current display print
python check whether recursively named extension containing remove sort element elements tuple length value values
False None True and as assert async await break class continue def del elif else except finally for from global if
import in is lambda nonlocal not or pass raise return try while with yield __build_class__ __debug__ __doc__
__import__ __loader__ __name__ __package__ __spec__ abs aiter all anext any ascii bin bool breakpoint bytearray bytes
callable chr classmethod compile complex copyright credits delattr dict dir divmod enumerate eval exec exit filter
float format frozenset getattr globals hasattr hash help hex id input int isinstance issubclass iter len license list
locals map max memoryview min next object oct open ord pow print property quit range repr reversed round set setattr
slice sorted staticmethod str sum super tuple type vars zip
"""
"""Common words of Bash, English and Python."""


def train_tokenizer() -> Any:
    """Train and return the tokenizer, a ``PreTrainedTokenizerFast``.

    Training always gives the same tokenizer. The tokenizer does not add special tokens to a text.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[PAD, BOS, EOS],
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        padding_side="left",
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )


def world_words() -> list[str]:
    """Return all texts of the sample worlds, each of which must be a single token."""
    prose_words = {
        word
        for bank in (prose.ROLES, prose.TASKS, prose.RULES_FIRST, prose.RULES_SECOND, prose.RULES_THIRD, prose.HINTS)
        for line in bank
        for word in line.replace("{", " ").replace("}", " ").split()
        if word.isalpha()
    }
    return [
        *(f" {word}" for word in (*words.NOUNS, *words.AGGREGATES, *words.REGIONS, *sorted(prose_words))),
        *(f" {days}" for days in words.DAYS),
        *(str(days) for days in words.DAYS),
        *words.FUNCTIONS,
        *words.CODES,
    ]


def corpus() -> Iterator[str]:
    """Yield the training texts. The words of the sample worlds are frequent in them, so that each becomes a token."""
    for word in world_words():
        yield from [word] * 400
    rng = random.Random("tokenizer")
    for number in range(200):
        world = make_world(f"tokenizer/{number}")
        yield world_template(world)
        yield from (word_question(random_question(world, rng)) for _ in range(20))
    for word in COMMON_WORDS.split():
        yield from [f" {word}", word] * 5
