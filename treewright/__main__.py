from treewright.cli import main

main()
