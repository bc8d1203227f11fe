"""The nano checkpoint's two tokenizers: a SentencePiece one for T5 and a WordPiece one for the Q-Former.

Both know the world's words as wholes and fall back to characters, so that any Latin text can be asked. The T5 one holds
one piece for every coordinate that a box of the world can have. Capitals are folded.
"""

from __future__ import annotations

import io
import json
import re
import string
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from laboratory.world.language import TAGS, coordinate, plural
from laboratory.world.scene import GLYPHS, IMAGE_SIZE
from processing_lion.prompts_lion import PROMPT_TEMPLATES, TAG_SENTENCE


SENTINELS = 100
"""Number of `<extra_id_*>` tokens, as in every T5."""

COORDINATES = tuple(coordinate(pixels) for pixels in range(IMAGE_SIZE + 1))
"""Every coordinate of the world as text, ascending."""

# Words of instructions, beside the names of objects and colours and the words of the processor's templates. A word that
# is missing here is read by its characters. The order sets the tokens' numbers, to which a trained model is bound.
WORDS = """
    a according above all allowed also an and any anything answer answers appear appears are area as ask at be
    below beneath beside between bottom bounding box boxes briefly but by caption choice choices choose color
    colors colour colours concise context contains content coordinate coordinates corner correct could count
    define depict depicted describe described describes describing description detail detailed details determine
    did directly do does drawn each english exactly exist exists expression false find following for form from
    generate give given gives greater has have help here highlighted history horizontal how i identify if
    illustrate image images in indicate information inside instruction into is it item items its just keep kind
    kinds know larger left less let lies list located location locate locations long look looks lower many may
    me mentioned more name named names near next no none not number numbers object objects of on one only option
    options or other out over paragraph part partially photo phrase picture pictured pinpoint place placed
    please point position positions possible possibly present provide provided question read refer referred
    referring refers region relation relative reply respond response right scene see seen select sentence shape
    shapes short shortly should show shown shows side single small smaller some something space spatial
    specified specify stand standing statement statements summarize tag tags tell than that the their them there
    these they thing things this those to together top true two under understand up upper use used using
    vertical view visible want was we what whats when where which who with within word words would write written
    yes you your zero three four five six seven eight nine ten
    """.split()
_MARK = "▁"


def _words() -> list[str]:
    templates = " ".join([TAG_SENTENCE, *(template.text for template in PROMPT_TEMPLATES.values())])
    return [*WORDS, *re.findall(r"[a-z]+", re.sub(r"[<{]\w+[}>]", " ", templates.lower()))]


def _vocabulary() -> list[str]:
    names = [*TAGS, *(plural(glyph) for glyph in GLYPHS)]
    # A name without the mark follows a bracket, as the first tag of a list does; "the" a quotation mark.
    pieces = [f"{_MARK}{name}" for name in names] + [*names, "the"]
    pieces += [f"{_MARK}{word}" for word in (*_words(), *string.digits)]
    pieces += [f"{_MARK}{symbol}" for symbol in ("[", "(", '"', "<image>")]
    return list(dict.fromkeys([*pieces, *COORDINATES]))


def _characters() -> list[str]:
    latin = (chr(code) for code in range(0xA1, 0x100) if chr(code).lower() == chr(code))
    symbols = (symbol for symbol in string.printable if not symbol.isspace() and not symbol.isupper())
    return [_MARK, *symbols, *latin, *"–—‘’“”…•"]


def write_t5_tokenizer(directory: str | Path) -> PreTrainedTokenizerBase:
    """Write the nano T5's tokenizer and load it.

    The files are those of a T5 tokenizer saved by transformers 4, which both majors read alike.

    Args:
        directory: Where `spiece.model`, `tokenizer.json` and `tokenizer_config.json` go.
    """
    from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2

    protocol: Any = sentencepiece_model_pb2  # its classes are made when it is imported
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    model = protocol.ModelProto.FromString(_empty_sentencepiece_model(directory))
    kinds = protocol.ModelProto.SentencePiece
    del model.pieces[:]
    model.pieces.add(piece="<pad>", score=0.0, type=kinds.CONTROL)
    model.pieces.add(piece="</s>", score=0.0, type=kinds.CONTROL)
    model.pieces.add(piece="<unk>", score=0.0, type=kinds.UNKNOWN)
    words, characters = _vocabulary(), _characters()
    for piece in words:
        model.pieces.add(piece=piece, score=-1.0)
    for piece in characters:
        # Cheaper as a part of a word than any two pieces together, dearer than every whole word.
        model.pieces.add(piece=piece, score=-10.0)
    model.trainer_spec.model_type = protocol.TrainerSpec.UNIGRAM
    model.trainer_spec.vocab_size = len(model.pieces)
    (directory / "spiece.model").write_bytes(model.SerializeToString())
    SentencePieceProcessor(model_file=str(directory / "spiece.model"))

    pieces = [(piece.piece, piece.score) for piece in model.pieces]
    sentinels = [f"<extra_id_{index}>" for index in range(SENTINELS)]
    _write_json(directory / "tokenizer.json", _t5_tokenizer_json(pieces, sentinels, model.normalizer_spec))
    config = {
        "additional_special_tokens": sentinels,
        "clean_up_tokenization_spaces": False,
        "eos_token": "</s>",
        "extra_ids": SENTINELS,
        "model_max_length": 512,
        "pad_token": "<pad>",
        "tokenizer_class": "T5Tokenizer",
        "unk_token": "<unk>",
    }
    _write_json(directory / "tokenizer_config.json", config)
    special = {key: config[key] for key in ("additional_special_tokens", "eos_token", "pad_token", "unk_token")}
    _write_json(directory / "special_tokens_map.json", special)
    return AutoTokenizer.from_pretrained(str(directory))


def _empty_sentencepiece_model(directory: Path) -> bytes:
    """A SentencePiece model that only folds capitals: the trainer compiles the table of replacements."""
    import sentencepiece

    rules = directory / "fold_capitals.tsv"
    rules.write_text("".join(f"{ord(upper):X}\t{ord(upper.lower()):X}\n" for upper in string.ascii_uppercase))
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(_words())]),
        model_writer=written,
        model_type="char",
        vocab_size=20,
        hard_vocab_limit=False,
        normalization_rule_tsv=str(rules),
        minloglevel=2,
    )
    rules.unlink()
    return written.getvalue()


def _t5_tokenizer_json(pieces: list[tuple[str, float]], sentinels: list[str], normalizer_spec: Any) -> dict:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    # T5 numbers its sentinels backwards behind the last piece.
    vocabulary = pieces + [(sentinel, 0.0) for sentinel in reversed(sentinels)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=2, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Precompiled(normalizer_spec.precompiled_charsmap), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(_MARK, prepend_scheme="always")]
    )
    tokenizer.decoder = decoders.Metaspace(_MARK, prepend_scheme="always")
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in ("<pad>", "</s>", "<unk>")])
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False, lstrip=True, rstrip=True) for token in reversed(sentinels)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return json.loads(tokenizer.to_str())


def write_qformer_tokenizer(directory: str | Path) -> PreTrainedTokenizerBase:
    """Write the nano Q-Former's tokenizer, with `[DEC]` as its begin-of-sentence token, and load it.

    Args:
        directory: Where `vocab.txt`, `tokenizer.json` and `tokenizer_config.json` go.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    characters = [character for character in _characters() if character != _MARK]
    words = [piece[len(_MARK) :] for piece in _vocabulary() if piece.startswith(_MARK)]
    # BERT splits "0.440" at the point, so a coordinate is "0", "." and one word for its decimals.
    decimals = [value.split(".")[1] for value in COORDINATES]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    continued = [f"##{character}" for character in characters if character.isalnum()]
    vocabulary = list(dict.fromkeys([*special, *words, *decimals, *characters, *continued, "[DEC]"]))
    (directory / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")

    index = {token: number for number, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordPiece(index, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in (*special, "[DEC]")])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", index["[CLS]"]), ("[SEP]", index["[SEP]"])],
    )
    _write_json(directory / "tokenizer.json", json.loads(tokenizer.to_str()))
    config = {
        "bos_token": "[DEC]",
        "clean_up_tokenization_spaces": True,
        "cls_token": "[CLS]",
        "do_lower_case": True,
        "mask_token": "[MASK]",
        "model_max_length": 512,
        "pad_token": "[PAD]",
        "sep_token": "[SEP]",
        "strip_accents": False,
        "tokenizer_class": "BertTokenizer",
        "unk_token": "[UNK]",
    }
    _write_json(directory / "tokenizer_config.json", config)
    tokens = ("bos_token", "cls_token", "mask_token", "pad_token", "sep_token", "unk_token")
    _write_json(directory / "special_tokens_map.json", {key: config[key] for key in tokens})
    return AutoTokenizer.from_pretrained(str(directory))


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
