"""Given names that say "a person" wherever they stand: the evidence by which "assistant of John Smith" differs from
"assistant of Acme Corp".

Common names of many countries, folded. Left out are those that are also everyday words, places, products or
programming languages (Mark, Will, Grace, Paris, Jordan, Ruby, Julia, Claude): a role must not vanish with them.
"""

from __future__ import annotations

from typing import Final


def word_set(words: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(words.split())


GIVEN_NAMES: Final = word_set(
    """
    aaliyah aaron abdul abdullah abigail abraham adam adnan adrian agnieszka ahmed aisha alan albert aleksandr
    alejandro alessandro alexander alexandra alexandre alfred ali alice alicia alina amanda amelia amina amir amit
    amy ana anastasia anders andre andrea andreas andrei andrew angela anita anja anjali anna anne annika antoine
    anton antonio arjun arthur arturo ashley astrid ayesha ayumi barbara beatriz benjamin bernard bjorn boris
    brandon brenda brian bruno camila camille carlos carmen carolina caroline catherine cecilia charles charlotte
    chiara christian christina christine christoph christopher cristina daisuke daniel daniela danielle darius david
    deborah deepak denise dennis diana diego dieter dimitri dmitri dominik donald dorothy edward ekaterina elena
    elisabeth elizabeth ella elsa emil emilia emily emma eric erica erik erika ethan eugene eva evelyn fabian farah
    fatima fatma federico felipe felix fernanda fernando filip francesca francesco francisco francois frank
    franziska frederic frida friedrich gabriel gabriela gabriele gareth gary george gerald gerhard giorgio giovanni
    giulia giuseppe gloria gonzalo gregory greta guillaume guillermo gunnar gustavo hanna hannah hans harold haruki
    heather heidi heike heinrich helen helena helga henrik henry hiroshi hugo ibrahim igor ines ingrid irina isaac
    isabel isabella ivan jacob jacqueline jakub james jamie jan jane janet jason javier jean jeffrey jennifer jeremy
    jessica jiro joan joana joanna joao johan johann johanna johannes john jonas jonathan jorge jose josef joseph
    joshua juan juliana jurgen kamala karen karin karl karolina katarzyna kate katharina katherine kathleen katrin
    keiko keith kelly kenji kenneth kerstin kevin khaled khalid klaus kofi kumar kwame lakshmi lars laura lauren
    laurent lea leila lena leon leonardo leonie li liam linda lisa lorenzo louise luca lucas lucia lucy luigi luis
    luisa luiza lukas lydia magdalena mahmoud malik manuel marcel marcin marco marcus margaret maria mariam marie
    marina mario marlene marta martin martina mary masaki mateo matilda matteo matthew matthias maurice mehmet mei
    melanie melissa michael michal michel michelle miguel mikhail mohamed mohammad mohammed monika muhammad mustafa
    nadia nadine nancy naomi natalia natalie natasha neha nicholas nicolas nicole niklas nikolai nina noah noor nora
    norbert olga oliver olivia oscar oskar otto pablo pamela patricia paul paula paulo pedro peter petra philip
    philipp philippe pierre piotr priya rachel rafael rahul raj rajesh ralf ramon raquel rashid raymond rebecca
    renate ricardo richard robert roberto rodrigo roger roland ronald rosa rosalind roxana rudolf ryan sabine
    sabrina sakura salma samantha samir samuel sandra sanjay sara sarah sasha satoshi scott sean sebastian selma
    sergei sergio shirin shreya silvia simon simone sofia sonia sophia sophie stefan stefanie stella stephanie
    stephen steven sunil sunita susan susanne suzanne sven svetlana takashi tanja tariq tatiana teresa theodore
    theresa thomas timothy tomas tomasz tyler ulrich ursula uwe valentina valeria vanessa vera veronica victor vijay
    vikram viktor vincent vladimir walter wei wilhelm william wolfgang xavier xiao yasmin yosef yuki yuri yusuf yves
    yvonne zainab zeynep zoe zofia
    """
)
