"""What a run will cost, before it starts: ``--plan`` of pretrain.py and finetune.py.

``plan.make_plan`` compiles the very program that the run would, and ``words`` prints what was found. ``flops`` counts,
``collectives`` reads what is sent between devices, ``memory`` what is needed and had, ``rates`` how fast devices are,
``reading`` what the data hold, ``remedies`` which setting makes a run fit, ``scaling`` what more devices bring.
"""
