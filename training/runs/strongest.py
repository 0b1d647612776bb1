"""What the filters of a network for texts look for: the n-grams to which each responds most strongly."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name
from tokenizers import Tokenizer
from torch import Tensor, nn

from training.data.dataset import Split
from training.network.build import Embed, ParallelWindows

MAX_TEXTS, SHOWN = 1000, 3
_BATCH, _KEPT = 50, 12  # texts at a time; responses of a filter that are kept, since n-grams repeat


def page(network: nn.Module, split: Split, tokenizer_json: str, caption: str) -> str | None:
    """The strongest n-grams of each filter over texts of a split, in Markdown; None without windows over texts."""
    embed = next((module for module in network.modules() if isinstance(module, Embed)), None)
    windows = next((module for module in network.modules() if isinstance(module, ParallelWindows)), None)
    if embed is None or windows is None:
        return None
    tokenizer = Tokenizer.from_str(tokenizer_json)
    texts = split.at(torch.linspace(0, len(split) - 1, min(len(split), MAX_TEXTS)).long())
    lines = ["# The strongest n-grams of each filter", "", f"{caption}. The response is before the activation.", ""]
    for conv in windows.convs:
        assert isinstance(conv, nn.Conv1d)
        lines += [f"## Windows of {conv.kernel_size[0]}", "", "| filter | response | n-grams |", "| --: | --: | --- |"]
        lines += _rows(embed, conv, texts, tokenizer, wide=windows.wide)
        lines.append("")
    return "\n".join(lines)


def _rows(embed: Embed, conv: nn.Conv1d, texts: Split, tokenizer: Tokenizer, *, wide: bool) -> Iterator[str]:
    """A row of the table for each filter, the one with the strongest response first."""
    responses, ngrams = strongest(embed, conv, texts, wide=wide)
    for number in responses[:, 0].argsort(descending=True).tolist():
        shown: dict[str, None] = {}
        for ids in ngrams[number][responses[number].isfinite()].tolist():
            words = tokenizer.decode([token for token in ids if token], skip_special_tokens=False)
            shown.setdefault(words.replace("|", "\\|"))
        yield f"| {number + 1} | {responses[number, 0]:.2f} | {'; '.join(list(shown)[:SHOWN])} |"


@torch.inference_mode()
def strongest(embed: Embed, conv: nn.Conv1d, texts: Split, *, wide: bool = False) -> tuple[Tensor, Tensor]:
    """The strongest responses of F filters of width k, and the token ids that they saw: (F, K) and int64 (F, K, k).

    Windows start inside of a text, or with `wide` up to k - 1 before it; ids outside of a text are 0.
    """
    (size,) = conv.kernel_size
    before = size - 1 if wide else 0
    best = torch.full((conv.out_channels, 0), 0.0)
    seen = torch.zeros(conv.out_channels, 0, size, dtype=torch.int64)
    for start in range(0, len(texts), _BATCH):
        tokens = texts.texts(torch.arange(start, min(start + _BATCH, len(texts)))).long()
        padded = F.pad(tokens, (before, size - 1))
        windows = padded.unfold(1, size, 1)  # (N, L, k)
        maps = conv(F.pad(embed(tokens).values, (before, size - 1)))  # (N, F, L)
        maps = maps.masked_fill(~windows.bool().any(dim=2).unsqueeze(1), -torch.inf)
        flat = maps.transpose(0, 1).flatten(1)  # (F, N*L)
        values, places = flat.topk(min(_KEPT * 4, flat.shape[1]), dim=1)
        best = torch.cat([best, values], dim=1)
        seen = torch.cat([seen, windows.flatten(0, 1)[places]], dim=1)
        best, order = best.topk(min(_KEPT * 4, best.shape[1]), dim=1)
        seen = seen.gather(1, order.unsqueeze(2).expand(-1, -1, size))
    return best, seen
