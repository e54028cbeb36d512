/* Files that travel inside the program. The assembler finds them with -I. */
    .section .rodata
    .global lapidary_small_tokenizer_begin, lapidary_small_tokenizer_end
    .global lapidary_chat_template_begin, lapidary_chat_template_end
lapidary_small_tokenizer_begin:
    .incbin "small-tokenizer.json"
lapidary_small_tokenizer_end:
lapidary_chat_template_begin:
    .incbin "chat_template.jinja"
lapidary_chat_template_end:
    .byte 0
    .section .note.GNU-stack, "", %progbits
