"""The commands of `rwkv-tune`, one module each; a module is imported only when its command runs."""
