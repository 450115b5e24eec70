"""Questions and answers of one partition, as texts of Alpaca's form."""

from transformers import AutoTokenizer, DataCollatorForLanguageModeling

START = "below is an instruction that describes a task."


def load_data(partition, partitions):
    """Every so many of the sums."""
    pairs = [(f"{n}+{m}?", f"{n + m}") for n in range(6) for m in range(6)]
    return [{"instruction": question, "response": answer} for question, answer in pairs[partition::partitions]]


def formatted(row):
    return f"{START}\n### instruction:\n{row['instruction']}\n### response: {row['response']}"


def tokens_and_collator(name, rows, longest):
    """What a trainer takes: the texts as tokens, and what makes batches of them."""
    tokenizer = AutoTokenizer.from_pretrained(name)
    encoded = [tokenizer(formatted(row).lower(), truncation=True, max_length=longest) for row in rows]
    kept = [{"input_ids": one["input_ids"], "attention_mask": one["attention_mask"]} for one in encoded]
    return kept, DataCollatorForLanguageModeling(tokenizer, mlm=False)
