"""`medcl pretrain`."""

from medcl.cli.options import ConfigFile, Overrides, PrintConfig, Resume


def command(
    config: ConfigFile = None,
    overrides: Overrides = None,
    resume: Resume = False,
    print_config: PrintConfig = False,
) -> None:
    """Learn an encoder from unlabelled volumes.

    Example: medcl pretrain configs/pretrain/hippocampus.yaml data.path=scans/ out=runs/pre
    """
    from medcl.cli.training import run_training

    run_training("pretrain", config, overrides or [], resume=resume, print_config=print_config)
