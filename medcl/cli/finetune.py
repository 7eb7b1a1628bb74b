"""`medcl finetune`."""

from medcl.cli.options import ConfigFile, Overrides, PrintConfig, Resume


def command(
    config: ConfigFile = None,
    overrides: Overrides = None,
    resume: Resume = False,
    print_config: PrintConfig = False,
) -> None:
    """Train a segmentation network on a few labelled volumes; or what else the file's task says (numbers, finer volumes, prompts).

    Example: medcl finetune configs/finetune/prompt_maple.yaml data.path=records.csv init=runs/align out=runs/maple

    Example: medcl finetune configs/finetune/segment.yaml data.path=scans/ data.labelled=2 init=runs/pre out=runs/seg
    """
    from medcl.cli.training import run_training

    run_training("finetune", config, overrides or [], resume=resume, print_config=print_config)
