"""Text on its way in and out: messages become token ids, token ids become text.

`templates` finds a model's chat template, `jinja` compiles it, `render` turns a conversation into
token ids, `guard` keeps control tokens out of the hands of users; `tokenizer` and `token_bytes`
know the vocabulary; `detokenize` and `stop_strings` work on the answer as it grows;
`generation_stops` says which token ids end it. Nothing here knows the engine or the server.
"""
