"""Processes of this machine: started, heard, ended. Knows no learning."""
