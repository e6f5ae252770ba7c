"""Writes this folder: a small ModernBERT of random weights as transformers saves one, and the states that it gives.

    pip install torch transformers && python make.py

Made with torch 2.15 and transformers 5.24.
"""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import ModernBertConfig, ModernBertModel, PreTrainedTokenizerFast

HERE = Path(__file__).parent
TEXTS = ["i lost my card", "where does my pension go if i lose the card and move abroad, and why?"]

torch.manual_seed(0)
special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
bpe = Tokenizer(models.BPE())
bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
bpe.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=60, special_tokens=special))
ends = [("[CLS]", 2), ("[SEP]", 3)]
bpe.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="[PAD]")

# Four layers, so that the fourth attends to the whole text again; windows that the longer text exceeds.
config = ModernBertConfig(
    vocab_size=bpe.get_vocab_size(),
    hidden_size=8,
    intermediate_size=12,
    num_hidden_layers=4,
    num_attention_heads=2,
    max_position_embeddings=64,
    local_attention=4,
    pad_token_id=0,
    cls_token_id=2,
    bos_token_id=2,
    sep_token_id=3,
    eos_token_id=3,
    attn_implementation="eager",
)
model = ModernBertModel(config).eval()
with torch.no_grad():
    for name, parameter in model.named_parameters():
        parameter.normal_(1.0 if "norm" in name else 0.0, 0.3)
model.save_pretrained(HERE)
bpe.save(str(HERE / "tokenizer.json"), pretty=False)

batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
with torch.no_grad():
    states = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
expected = {
    "texts": TEXTS,
    "lengths": batch.attention_mask.sum(1).tolist(),
    "shape": list(states.shape),
    "states": [float(f"{value:.9g}") for value in states.flatten().tolist()],
}
(HERE / "expected.json").write_text(json.dumps(expected) + "\n")
