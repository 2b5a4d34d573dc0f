"""`python -m pdl_jax COMMAND`; alone it lists the commands."""

from pdl_jax.commands.command_line import main

if __name__ == '__main__':
    main()
