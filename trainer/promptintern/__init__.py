"""The trainer of PromptIntern: internalizes a recurring prompt into LoRA weights, stage by stage."""
